"""Specs and keys of the profile ``smoke``, for tests of profiles and of keys."""

from __future__ import annotations

from cl_bench.spec import MethodSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile

DENSE = Row(MethodSpec(name="dense_index", source="a"), "single_object", "overlapping")
STAGES = ("pretrain", "measure", "linear", "detection")


def smoke(*settings):
    return load_profile("smoke", settings)


def first(*settings, row=DENSE):
    return smoke(*settings).sweep(row)[0]


def keys(spec):
    return {stage: getattr(spec, stage).key for stage in STAGES}
