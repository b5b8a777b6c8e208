"""``cl-bench measure``: frozen encoders, whoever trained them, and the correlation over a folder of them."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cl_bench.errors import OutOfMemory, PluginError, SpecError, check_folder, of_file
from cl_bench.spec.encoder_names import KNOWN, named

if TYPE_CHECKING:
    from cl_bench.compute.measure_own import Settings, Stage, Subject
    from cl_bench.data.locator import DatasetLocator
    from cl_bench.store import Store

NAME = "measure"
HELP = "measure frozen encoders: L_a, L_u, probes, predictors, linear evaluation, detection, and tau over a folder"
STAGES: tuple[Stage, ...] = ("measure", "linear", "detection")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("encoders", nargs="+", metavar="ENCODER", help=KNOWN)
    parser.add_argument("--encoder", default="", metavar="NAME", help="architecture that the files of weights are for")
    parser.add_argument(
        "--profile",
        default="smoke",
        help="profile with the images, views and tasks: its name or TOML file (default: smoke)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change a value of the profile; may be repeated",
    )
    parser.add_argument("--only", action="append", choices=STAGES, help="run this stage alone; may be repeated")
    parser.add_argument(
        "--enlarge", default="auto", metavar="auto|N", help="factor by which images are enlarged (default: auto)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random weights (default: 0)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder with the data sets")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(".cl_bench"),
        metavar="DIR",
        help="where results are kept (default: .cl_bench)",
    )
    parser.add_argument(
        "--device", default="auto", help="device to compute on: auto, cpu, cuda or cuda:i (default: auto)"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="folder to write encoders.csv and encoders.json to")


def run(arguments: argparse.Namespace) -> int:
    """Measure what is asked for and tell it.

    Returns:
        0; 4 for something asked for that makes no sense, told in one line; 1 where memory or the disk is full; 130
        where it was interrupted: what is done is kept.
    """
    try:
        return _run(arguments)
    except (SpecError, PluginError) as error:
        return _said(str(error), 4)
    except (OutOfMemory, OSError) as error:
        return _said(of_file(error) if isinstance(error, OSError) else str(error), 1)
    except KeyboardInterrupt:
        return _said("interrupted; what is done is kept: run the same command again to continue", 130)


def _said(text: str, status: int) -> int:
    print(f"cl-bench {NAME}: {text}", file=sys.stderr)
    return status


def _run(arguments: argparse.Namespace) -> int:
    enlarged = _times(arguments.enlarge)
    for option, folder in (("--store", arguments.store), ("--report", arguments.report)):
        if folder is not None:
            check_folder(option, folder)
    stages: tuple[Stage, ...] = tuple(s for s in STAGES if not arguments.only or s in arguments.only)
    asked = named(arguments.encoders, arguments.encoder)

    from cl_bench.compute.asked import data_under, profile_on
    from cl_bench.compute.devices import torch_device
    from cl_bench.compute.measure_own import GRIDLESS, Settings, built_in_predictors, examine, result, without_twins
    from cl_bench.console import Console
    from cl_bench.report.own_encoders import encoders_csv, encoders_json, tables
    from cl_bench.spec.own import OwnRunSpec
    from cl_bench.store import Store

    device = torch_device(arguments.device)
    store = Store(arguments.store)
    locator = data_under(arguments.data_root, store, fetch=False, download=False)
    profile = profile_on(arguments.profile, arguments.set, arguments.data_root, locator.found, ())
    known = built_in_predictors()
    predictors = tuple(known.spec_of(p) for p in known.built_in if p.name not in GRIDLESS)
    spec = OwnRunSpec.of(profile, predictors)
    settings = Settings(spec, profile.encoder.padding, arguments.seed, enlarged)
    subjects, twins = without_twins([examine(one, settings) for one in asked])
    if all(subject.diverged for subject in subjects):
        raise SpecError("; ".join(f"{subject.named.label}: {subject.diverged}" for subject in subjects))
    locator.prepare({images for stage in stages for images in spec.images_of(stage)})
    _compute(subjects, settings, store, stages, str(device), locator)
    results = [result(subject, store) for subject in subjects]
    better = {predictor.name: predictor.better for predictor in predictors}
    console = Console()
    for line in twins:
        console.print(line, markup=False, highlight=False)
    for renderable in tables(results, spec, better):
        console.print(renderable)
    if arguments.report is not None:
        arguments.report.mkdir(parents=True, exist_ok=True)
        (arguments.report / "encoders.csv").write_text(encoders_csv(results), encoding="utf-8")
        told = encoders_json(results, spec, better, profile.name)
        (arguments.report / "encoders.json").write_text(told, encoding="utf-8")
        console.print(f"written: {arguments.report}/encoders.csv, encoders.json", markup=False, highlight=False)
    return 0


def _compute(
    subjects: Sequence[Subject],
    settings: Settings,
    store: Store,
    stages: Sequence[Stage],
    device: str,
    locator: DatasetLocator,
) -> None:
    """Compute what the store lacks, with a bar on a terminal and a line an encoder elsewhere."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    from cl_bench.compute.measure_own import compute, lacking
    from cl_bench.console import Console

    todo = [subject for subject in subjects if lacking(subject, store, stages)]
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        for place, subject in enumerate(todo):
            begun, label = time.monotonic(), subject.named.label
            bar = bars.add_task(label, total=None)

            def show(
                stage: str, done: int, total: int, label: str = label, place: int = place, bar: TaskID = bar
            ) -> None:
                what = f"{place + 1}/{len(todo)} {label}: {stage}"
                bars.update(bar, description=what, completed=done, total=total)

            compute(subject, settings, store, stages, torch.device(device), locator.places, show)
            bars.remove_task(bar)
            took = math.ceil(time.monotonic() - begun)
            console.print(f"[{place + 1}/{len(todo)}] {label}: {took} s", markup=False, highlight=False)


def _times(text: str) -> int | None:
    """Parse how many times images are enlarged; None to find out."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 32:
        raise SpecError(f"--enlarge takes auto or a whole number from 1 to 32, got {text!r}")
    return int(text)


def main() -> int:
    """Parse a command line of its own and run it."""
    parser = argparse.ArgumentParser(prog=f"python -m cl_bench.commands.{NAME}", description=HELP, allow_abbrev=False)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
