"""From what a person asks for to records: shared by pytest's plugin and by the functions for notebooks."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.compute.progress import Display
from cl_bench.compute.record import lacking, load_record
from cl_bench.errors import SpecError
from cl_bench.spec import DataSpec, MethodSpec, PredictorSpec, RunSpec, ScenesSpec
from cl_bench.spec.encoder_names import BUILT_IN
from cl_bench.spec.profile import KINDS, LAST_SEED, MOST_SEEDS, Profile
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import Record
from cl_bench.store import Store

if TYPE_CHECKING:
    from cl_bench.data.locator import DatasetLocator
    from cl_bench.methods.registry import Registry

PLAIN_WIDTH = 110  # columns where there is no terminal to ask


_DURATION = re.compile(r"(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)


def duration_seconds(option: str, text: str) -> float:
    """Return the seconds of a time such as ``90s``, ``45m``, ``2h`` or ``1h30m``, which an option takes.

    Raises:
        SpecError: The text is not of that form, or the time is zero.
    """
    found = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    whole = 3600 * hours + 60 * minutes + seconds
    if not whole:
        raise SpecError(f"{option} takes hours, minutes and seconds, as 90s, 45m, 2h or 1h30m, got {text!r}")
    return float(whole)


def seed_settings(text: str) -> list[str]:
    """Return what ``--seeds N`` or ``--seeds FIRST:END`` sets in a profile.

    Raises:
        SpecError: The text is neither, or there are more than ``MOST_SEEDS``.
    """
    first, colon, end = text.rpartition(":")
    try:
        begin, stop = int(first) if colon else 0, int(end)
    except ValueError:
        begin, stop = 0, 0
    if not 0 <= begin < stop:
        raise SpecError(f"--seeds takes a number N (seeds 0 to N - 1) or FIRST:END, as 3:8, got {text!r}")
    if stop - begin > MOST_SEEDS or stop > LAST_SEED:
        raise SpecError(f"--seeds takes at most {MOST_SEEDS:,} seeds, none of {LAST_SEED:,} or more, got {text!r}")
    return [f"seeds={stop - begin}", f"first_seed={begin}"]


def data_under(root: Path | None, store: Store, fetch: bool, download: bool) -> DatasetLocator:
    """Return a locator of the data sets under a folder.

    Args:
        root: The folder; None where only embedded data are taken.
        store: Where decoded images are kept.
        fetch: Whether this process downloads what is missing.
        download: Whether the person asked for a download, by whichever process.

    Raises:
        SpecError: There is no such folder, or nowhere to download to.
    """
    from cl_bench.data import DataPaths
    from cl_bench.data.locator import DatasetLocator

    if download and root is None:
        raise SpecError("--download needs --data-root DIR, where to put what it gets")
    if root is not None and not (root.is_dir() or (download and not root.exists())):
        raise SpecError(f"--data-root {root}: {'not a folder' if root.exists() else 'no such folder'}")
    return DatasetLocator(DataPaths.of(store.root, root), fetch=fetch)


def profile_on(
    name: str,
    settings: Sequence[str],
    data_root: Path | None,
    found: Callable[[DataSpec], DataSpec],
    predictors: Sequence[PredictorSpec],
) -> Profile:
    """Return a profile with its settings, the data sets as they were found and the predictors to measure.

    Args:
        name: As ``load_profile`` takes it, as it does ``settings``.
        settings: What to change in it.
        data_root: Where a data set's folder is looked for that is not absolute.
        found: As ``DatasetLocator.found``.
        predictors: What to measure of every trained encoder.

    Raises:
        SpecError: As ``load_profile`` and ``Profile.with_found``; an encoder that cannot be built or cut.
    """
    profile = load_profile(name, settings, data_root)
    if profile.encoder.name not in BUILT_IN:
        from cl_bench.encoders.trainable import trainable

        for size in {profile.sources(kind).augment.size for kind in KINDS}:
            trainable(profile.encoder, size)
    return profile.with_found(lambda spec: spec if isinstance(spec, ScenesSpec) else found(spec)).with_predictors(
        predictors
    )


def method_specs(names: Iterable[str], registry: Registry, here: Path) -> list[MethodSpec]:
    """Return the methods that are named, once each, their options tried.

    Args:
        names: As ``--method`` takes them.
        registry: Where they are looked for; it learns of files that are named.
        here: What a relative path starts from.

    Raises:
        MethodError: As ``Registry.select`` and ``try_options``.
    """
    from cl_bench.methods.registry import spec_of
    from cl_bench.methods.synthetic import try_options

    found = [method for name in names for method in registry.select(name, here)]
    for method in found:
        try_options(method)
    return list(dict.fromkeys(map(spec_of, found)))


def prepare_data(
    specs: Iterable[RunSpec],
    store: Store,
    data: Callable[[], DatasetLocator],
    display: Display,
    console: Callable[[], Console],
) -> None:
    """Check the store, and find and decode the data of what it lacks, before any of that is computed.

    Args:
        specs: What is to be computed.
        store: Where its results are kept.
        data: Gives the locator of data sets, once one is needed; so with ``console``.
        display: What a person sees meanwhile.
        console: Gives where.

    Raises:
        DataError: As ``DatasetLocator.prepare``.
        SpecError: Something is to be computed, and the store's file system has no locks.
    """
    absent = [spec for spec in specs if load_record(spec, store) is None or lacking(spec, store)]
    if absent:
        store.check_locks()
    wanted = {d for spec in absent for d in spec.data_sets if not isinstance(d, ScenesSpec)}
    if wanted:
        with display.bar(console()) as on_step:
            data().prepare(wanted, on_step)


def wait_for(
    specs: Sequence[RunSpec],
    engine: LocalEngine,
    display: Display,
    console: Callable[[], Console],
    until: float = math.inf,
    around: AbstractContextManager[object] | None = None,
) -> bool:
    """Wait until the outcome of each spec is known, showing how far it is.

    Args:
        specs: What to wait for; what is not queued yet is queued.
        engine: Who computes it.
        display: What a person sees meanwhile.
        console: Gives where, once there is something to wait for.
        until: When to give up, on the monotonic clock, in seconds.
        around: Entered only where there is something to wait for.

    Returns:
        Whether every outcome is known.
    """
    display.total += engine.submit(specs)
    if all(engine.has(spec) for spec in specs) and not display.pending:
        return True
    with around or nullcontext(), display.waiting(console()) as refresh:

        def meanwhile() -> None:
            refresh()
            if time.monotonic() > until:
                raise TimeoutError

        try:
            engine.wait(specs, meanwhile)
        except TimeoutError:
            return False
    return True


def outcomes(specs: Sequence[RunSpec], engine: LocalEngine) -> tuple[list[Record | None], list[str]]:
    """Return the records of some specs, None for one that could not be computed, and a line for each failure."""
    records: list[Record | None] = []
    failures = []
    for spec in specs:
        try:
            records.append(engine.record(spec))
        except ComputationError as error:
            records.append(None)
            failures.append(str(error))
    return records, failures
