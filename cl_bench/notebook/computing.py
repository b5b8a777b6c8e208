"""Records computed from a notebook, through the engine that pytest uses."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from rich.console import Console

from cl_bench.compute.asked import (
    PLAIN_WIDTH,
    data_under,
    duration_seconds,
    method_specs,
    outcomes,
    prepare_data,
    profile_on,
    seed_settings,
    wait_for,
)
from cl_bench.compute.devices import check_division, check_per_model, check_share_views, default_jobs, usable_devices
from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.compute.progress import Display
from cl_bench.errors import SpecError, nearest
from cl_bench.notebook.checks import expect
from cl_bench.notebook.known import built_in_predictors, every_method
from cl_bench.report.collection import Records
from cl_bench.spec import DataKind, RunSpec, ViewPolicy
from cl_bench.spec.profile import KINDS, Profile, Row
from cl_bench.spec.records import RANDOM_INIT, Record
from cl_bench.store import Store

VIEWS = ("overlapping", "disjoint")


@overload
def run(
    spec: RunSpec,
    *,
    method: str = ...,
    store: str | Path = ...,
    data_root: str | Path | None = ...,
    device: str = ...,
    jobs: int | None = ...,
    gpus_per_model: int = ...,
    share_views: int = ...,
    timeout_per_encoder: str | None = ...,
    progress: bool = ...,
) -> Record: ...


@overload
def run(
    *,
    profile: str | Path = ...,
    method: str = ...,
    data: DataKind = ...,
    views: ViewPolicy = ...,
    scenes: str = ...,
    seeds: int | str | None = ...,
    set: Sequence[str] = ...,
    untrained: bool = ...,
    store: str | Path = ...,
    data_root: str | Path | None = ...,
    device: str = ...,
    jobs: int | None = ...,
    gpus_per_model: int = ...,
    share_views: int = ...,
    timeout_per_encoder: str | None = ...,
    progress: bool = ...,
) -> Records: ...


def run(
    spec: RunSpec | None = None,
    *,
    profile: str | Path = "smoke",
    method: str = "dense_index",
    data: DataKind = "single_object",
    views: ViewPolicy = "overlapping",
    scenes: str = "",
    seeds: int | str | None = None,
    set: Sequence[str] = (),
    untrained: bool = True,
    store: str | Path = ".cl_bench",
    data_root: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    gpus_per_model: int = 1,
    share_views: int = 1,
    timeout_per_encoder: str | None = None,
    progress: bool = True,
) -> Record | Records:
    """Compute the records of one row of a profile, or of one spec; what the store holds is taken from there.

    Interrupted, it goes on where it was when it is called again. A method that is edited meanwhile is another method,
    with records of its own.

    Args:
        spec: One encoder to compute, as ``Records.specs`` has them. Then ``profile`` and what changes it, ``data``,
            ``views``, ``scenes``, ``seeds``, ``set`` and ``untrained``, play no part.
        profile: Name of a profile, or a TOML file.
        method: Name of a method, or a file that holds one, with its options: ``"./my_match.py:reach=0.1"``. A strategy
            lies in a file, for worker processes import it; ``%%writefile my_match.py`` writes a cell to one.
        data: Pre-training data: ``single_object`` or ``multi_object``.
        views: ``overlapping`` or ``disjoint``.
        scenes: One of the profile's ``scenes``; as the data are where it is left out.
        seeds: Seeds a configuration, or ``"3:8"`` for seeds 3 to 7; the profile's if None.
        set: Changes to the profile, as ``["optimiser.epochs=2"]``.
        untrained: Whether to have untrained encoders too, which claims are judged against.
        store: Folder of the results.
        data_root: Folder of STL-10, COCO and VOC, for a profile that takes them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
        jobs: Worker processes; one a core on a CPU, one on a GPU if None.
        gpus_per_model: GPUs that pre-train one encoder together; on a CPU, processes.
        share_views: Encoders that a worker pre-trains in lock-step, on views that are made once for all of them.
        timeout_per_encoder: Time that a worker may take for an encoder, as ``"1h30m"``; one that takes longer is ended,
            and the encoder counts as failed. No limit if None.
        progress: Whether to print a line for each encoder that is finished.

    Returns:
        The record of ``spec``, or the ``Records`` of the row. An encoder of a row that cannot be computed has no
        record, and its line in ``Records.failures``.

    Raises:
        SpecError: A value that makes no sense; the message names it and the nearest right one. Nothing is trained.
        MethodError: There is no such method, or it cannot be loaded.
        DataError: A data set is not there.
        ComputationError: The one spec, or every encoder of the row, could not be computed.

    Example:
        >>> import cl_bench
        >>> records = cl_bench.run(profile="ci", method="dense_index", store="results", jobs=2, progress=False)
        >>> records[0].case
        'dense_index-info_nce-t0.1-s0'
        >>> sorted(records[0].performance)  # in percent: of detection, and of linear evaluation
        ['dense', 'instance']
    """
    told = "one encoder to compute, as those of Records.specs; a profile goes by name: profile='smoke'"
    expect("spec", spec, (RunSpec, type(None)), told)
    expect("profile", profile, (str, Path), "the name of a profile or a TOML file")
    expect("seeds", seeds, (int, str, type(None)), "a number, or text as '3:8'")
    expect("store", store, (str, Path), "a folder")
    expect("device", device, str, "auto, cpu, cuda or cuda:i")
    for name, value in (("data", data), ("views", views), ("scenes", scenes)):
        expect(name, value, str, "a name")
    expect("jobs", jobs, (int, type(None)), "a number of processes")
    expect("gpus_per_model", gpus_per_model, int, "a number of processes")
    expect("share_views", share_views, int, "a number of encoders")
    work = _Work(store, method, data_root, device, jobs, gpus_per_model, share_views, timeout_per_encoder, progress)
    if spec is not None:
        (record,), failures = work.pull([spec])
        if record is None:
            raise ComputationError(failures[0])
        return record
    if isinstance(set, str):
        raise SpecError(f"set={set!r}: takes a list, as [{set!r}]")
    setting = work.profile(str(profile), [*set, *([] if seeds is None else seed_settings(str(seeds)))])
    for name, value, known in (("data", data, KINDS), ("views", views, VIEWS), ("scenes", scenes, setting.scenes)):
        if value not in known and (name, value) != ("scenes", ""):
            raise SpecError(f"{name}={value!r}: no such {name}{nearest(value, [*known])}; {name}: {', '.join(known)}")
    row = Row(work.method, data, views, scenes)
    specs = (*setting.sweep(row), *(setting.random_init() if untrained else ()))
    found, failures = work.pull(specs)
    records = tuple(record for record in found if record is not None)
    if failures:
        told = f"{len(failures)} of {len(specs)} encoders could not be computed: {failures[0]}"
        if not any(record.family != RANDOM_INIT for record in records):
            raise ComputationError(told)
        warnings.warn(told, stacklevel=2)
    return Records(records, specs, setting, tuple(failures))


class _Work:
    """The engine for one call, made as a session of pytest makes it, and closed with it."""

    def __init__(
        self,
        store: str | Path,
        method: str,
        data_root: str | Path | None,
        device: str,
        jobs: int | None,
        gpus_per_model: int,
        share_views: int,
        timeout: str | None,
        progress: bool,
    ) -> None:
        if not isinstance(method, str):
            told = "a strategy lies in a file; %%writefile my_match.py writes a cell to one"
            raise SpecError(f"method= takes a name or a file, as './my_match.py', got {method!r}: {told}")
        if jobs is not None and jobs < 1:
            raise SpecError(f"jobs must be at least 1, got {jobs}")
        self.timeout = math.inf if timeout is None else duration_seconds("timeout_per_encoder", str(timeout))
        self.devices = usable_devices(device)
        check_per_model(gpus_per_model, self.devices)
        check_share_views(share_views, gpus_per_model)
        self.per_model, self.share_views = gpus_per_model, share_views
        self.jobs = jobs or default_jobs(self.devices, gpus_per_model)
        self.registry = every_method()
        (self.method,) = method_specs([method], self.registry, Path.cwd())
        self.store = Store(Path(store))
        self.data_root = None if data_root is None else Path(data_root)
        self.data = data_under(self.data_root, self.store, False, False)
        self.console = Console(file=sys.stdout, width=PLAIN_WIDTH, force_jupyter=False, quiet=not progress)

    def profile(self, name: str, settings: Sequence[str]) -> Profile:
        """Load a profile, with the data sets that were found."""
        return profile_on(name, settings, self.data_root, self.data.found, built_in_predictors())

    def pull(self, specs: Sequence[RunSpec]) -> tuple[list[Record | None], list[str]]:
        """Compute what is missing; returns records, None for one that failed, and a line for each failure."""
        check_division(self.per_model, specs)
        display = Display()
        prepare_data(specs, self.store, lambda: self.data, display, lambda: self.console)
        how = self.data.places.root, self.per_model, self.timeout, self.share_views
        engine = LocalEngine(self.store, self.registry.plugins, self.devices, self.jobs, display, *how)
        try:
            wait_for(specs, engine, display, lambda: self.console)
            return outcomes(specs, engine)
        finally:
            engine.close()
