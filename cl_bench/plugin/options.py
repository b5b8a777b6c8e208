"""Options of the command line: their names, their meaning, and errors for invalid values."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import pytest

from cl_bench.errors import PluginError, SpecError, closest, of_file

T = TypeVar("T")


class _Option:
    """Name of an option without dashes, and its arguments for argparse."""

    def __init__(self, name: str, **told: Any) -> None:
        self.name, self.told = name, told


OPTIONS = (
    _Option(
        "method",
        action="append",
        metavar="NAME|FILE.py[:NAME]|all[:k=v,..]",
        help="method to test, repeatable (default: dense_index)",
    ),
    _Option("profile", default="smoke", metavar="NAME|FILE.toml", help="setting of the sweep (default: smoke)"),
    _Option(
        "set", action="append", default=[], metavar="key.path=value", help="change a value of the profile, repeatable"
    ),
    _Option(
        "seeds",
        metavar="N|FIRST:END",
        help="seeds a configuration, 0 to N - 1 or FIRST to END - 1 (default: the profile's)",
    ),
    _Option(
        "until-conclusive",
        action="store_true",
        help="double the seeds until every claim is decided, or the profile's max_seeds are reached; the level is "
        "spent over the looks",
    ),
    _Option(
        "budget", metavar="1h30m", help="time that --until-conclusive may take; a look that does not fit is not begun"
    ),
    _Option("data-root", metavar="DIR", help="folder with STL-10, COCO or VOC, for a profile that needs them"),
    _Option("download", action="store_true", help="download missing data sets into --data-root, if torchvision can"),
    _Option(
        "encoder",
        metavar="timm:NAME|torchvision:NAME|FILE.py:FUNCTION",
        help="network to pre-train instead of the profile's encoder, padded as it is",
    ),
    _Option("detector", metavar="torchvision|detectron2", help="backend of detection (default: the profile's)"),
    _Option("device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to train (default: auto)"),
    _Option("jobs", type=int, metavar="N", help="worker processes (default: one for each CPU core, or for each GPU)"),
    _Option(
        "gpus-per-model",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that pre-train one encoder together, with the batch divided among them; on a CPU, processes "
        "(default: 1)",
    ),
    _Option(
        "timeout-per-encoder",
        metavar="1h30m",
        help="longest time for one encoder, as 90s or 1h30m; after it the worker is ended and the encoder has failed",
    ),
    _Option("engine", default="local", choices=("local", "ray"), help="workers on this machine, or on a Ray cluster"),
    _Option("store", default=".cl_bench", metavar="DIR", help="where results are kept (default: .cl_bench)"),
    _Option("report", metavar="DIR", help="where table and figures are written (default: STORE/report/PROFILE)"),
    _Option(
        "rerun",
        default="missing",
        choices=("missing", "failed", "all"),
        help="what to compute: what the store lacks (default), also what diverged, or all that is selected",
    ),
    _Option(
        "baseline", metavar="FILE", help="fail a claim whose tau or performance is significantly worse than in FILE"
    ),
    _Option(
        "save-baseline", metavar="FILE", help="write this run's figures to FILE; what it holds of other rows stays"
    ),
    _Option("strict-claims", action="store_true", help="an INCONCLUSIVE claim fails"),
    _Option("list-methods", action="store_true", help="list every method there is, with its options; run nothing"),
    _Option(
        "predictor",
        action="append",
        default=[],
        metavar="NAME|FILE.py[:NAME]",
        help="predictor of performance to measure beside the built-in ones, repeatable",
    ),
    _Option("list-predictors", action="store_true", help="list every predictor there is; run nothing"),
    _Option("from-store", action="store_true", help="compute nothing: judge what the store holds, skip what it lacks"),
    _Option("plan", action="store_true", help="list what would run and with what power; train nothing"),
)


@dataclass(frozen=True)
class Options:
    """Options of a session, by their names on the command line."""

    method: list[str] | None
    profile: str
    set: list[str]
    seeds: str | None
    until_conclusive: bool
    budget: str | None
    data_root: str | None
    download: bool
    encoder: str | None
    detector: str | None
    device: str
    jobs: int | None
    gpus_per_model: int
    timeout_per_encoder: str | None
    engine: str
    store: str
    report: str | None
    rerun: str
    baseline: str | None
    save_baseline: str | None
    strict_claims: bool
    list_methods: bool
    predictor: list[str]
    list_predictors: bool
    from_store: bool
    plan: bool

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Return the options of a configuration."""
        return cls(**{field.name: getattr(config.option, f"cl_{field.name}") for field in fields(cls)})


def add_options(parser: pytest.Parser, prefix: str) -> None:
    """Add each option under a prefix, except those whose name is taken, which keep their ``--cl-`` form."""
    group = parser.getgroup("cl-bench", "claims about contrastive representations (each option also as --cl-OPTION)")
    for option in OPTIONS:
        told = dict(option.told)
        if prefix == "--cl-":
            told["help"] = argparse.SUPPRESS
        with suppress(ValueError, argparse.ArgumentError):
            group.addoption(prefix + option.name, dest=f"cl_{option.name.replace('-', '_')}", **told)


def tell_nearest(parser: pytest.Parser, typed: Sequence[object]) -> None:
    """Let pytest's error for an unknown option name the nearest option of ours, where one is near."""
    ours = [f"--{option.name}" for option in OPTIONS]
    for option in (str(word).partition("=")[0] for word in typed):
        if option.startswith("--") and option not in ours and (near := closest(option, ours, 0.75)):
            parser.extra_info["did you mean"] = f"{near} for {option}"
            return


def renewing_command(typed: Sequence[object], path: str) -> str:
    """Return the typed command, changed to keep a new baseline instead of reading one."""
    words, last = ["pytest"], ""
    for word in map(str, typed):
        name, _, value = word.partition("=")
        options = ("--baseline", "--save-baseline")
        if not (name in options and (value or word in options)) and last not in options:
            words.append(word)
        last = word
    return shlex.join([*words, "--save-baseline", path])


def or_usage_error(make: Callable[[], T], what: str = "") -> T:
    """Return the value of an option; an invalid one ends the session before anything trains (exit status 4)."""
    try:
        return make()
    except (SpecError, PluginError) as error:
        raise pytest.UsageError(str(error)) from None
    except BrokenPipeError:  # of the output
        raise
    except OSError as error:
        raise pytest.UsageError(f"{what}: {error.strerror or error}" if what else of_file(error)) from None
