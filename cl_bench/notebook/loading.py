"""Records of a store, whatever profiles they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_bench.compute.asked import method_specs
from cl_bench.compute.loading import existing_store, stored_records
from cl_bench.errors import SpecError
from cl_bench.notebook.checks import expect
from cl_bench.notebook.known import built_in_predictors, built_in_profiles, every_method
from cl_bench.report.collection import Records
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import RANDOM_INIT


def load_records(
    store: str | Path = ".cl_bench",
    profile: str | Path | None = None,
    *,
    set: Sequence[str] = (),
    method: str | None = None,
) -> Records:
    """Load every record that a store holds, whatever profiles they are of; computes nothing.

    A store keeps what was asked for beside each encoder. One of an earlier version does not: of it the records of the
    built-in profiles are found, and those of ``profile``.

    Args:
        store: Folder of the results.
        profile: Name or TOML file of a profile: only its records are loaded, and ``judge`` knows what its grid asks
            for and how it judges.
        set: Changes to the profile, as those that the records were computed with; seeds need not be told.
        method: Name or file of a method with its options: only the records of its present source are loaded, and
            untrained encoders. Before that, a method that was edited meanwhile has records of every source.

    Returns:
        The records, by row; ``to_frame()`` makes a pandas ``DataFrame`` of them.

    Raises:
        SpecError: There is no such store or profile, or ``set`` without a profile.
        MethodError: There is no such method.

    Example:
        >>> import cl_bench
        >>> records = cl_bench.load_records("results")
        >>> records
        <8 records: single_object-overlapping-dense_index (6), random_init (2)>
        >>> list(records.to_frame().columns[:4])
        ['row', 'key', 'case', 'method']
    """
    expect("store", store, (str, Path), "a folder")
    expect("profile", profile, (str, Path, type(None)), "the name of a profile or a TOML file")
    expect("method", method, (str, type(None)), "the name of a method, or a file that holds one")
    held = existing_store(store)
    if isinstance(set, str):
        raise SpecError(f"set={set!r}: takes a list, as [{set!r}]")
    if set and profile is None:
        raise SpecError(f"set={list(set)!r}: changes a profile, and none is given; give profile=")
    wanted = None if profile is None else load_profile(str(profile), set).with_predictors(built_in_predictors())
    found, asked = stored_records(held, wanted, built_in_profiles)
    if method is not None:
        (kept,) = method_specs([method], every_method(), Path.cwd())
        found = [(spec, r) for spec, r in found if r.family == RANDOM_INIT or spec.pretrain.method == kept]
        asked = [spec for spec in asked if spec.pretrain.method == kept]
    specs = dict.fromkeys([*(spec for spec, _ in found), *asked])
    return Records(tuple(record for _, record in found), tuple(specs), wanted)
