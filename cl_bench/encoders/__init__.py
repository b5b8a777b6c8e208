"""Encoders: the built-in ones, and any frozen network whose dense and pooled features can be had."""

from cl_bench.encoders.built_in import (
    Encoder,
    ProjectionHead,
    ReflectingConv2d,
    build_encoder,
    reflect,
    to_channels_last,
)
from cl_bench.encoders.features import Backbone, Features, cells, pooled, unit, unit_and_norm, widened

__all__ = [
    "Backbone",
    "Encoder",
    "Features",
    "ProjectionHead",
    "ReflectingConv2d",
    "build_encoder",
    "cells",
    "pooled",
    "reflect",
    "to_channels_last",
    "unit",
    "unit_and_norm",
    "widened",
]
