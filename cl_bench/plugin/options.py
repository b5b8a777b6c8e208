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
        help="method to test: a registered name, or a file that registers one; repeatable (default: dense_index)",
    ),
    _Option(
        "profile",
        default="smoke",
        metavar="NAME|FILE.toml",
        help="what to train and evaluate: a shipped profile, or a TOML file (default: smoke)",
    ),
    _Option(
        "set", action="append", default=[], metavar="key.path=value", help="change one value of the profile, repeatable"
    ),
    _Option(
        "seeds",
        metavar="N|FIRST:END",
        help="seeds to train each configuration with: 0 to N - 1, or FIRST to END - 1 (default: the profile's number)",
    ),
    _Option(
        "until-conclusive",
        action="store_true",
        help="double the number of seeds until every claim is decided or the profile's max_seeds are reached; the "
        "significance level is divided among the times that claims are judged",
    ),
    _Option(
        "budget",
        metavar="1h30m",
        help="longest time for --until-conclusive; more seeds are not begun where they would take longer",
    ),
    _Option(
        "data-root", metavar="DIR", help="folder with the data sets STL-10, COCO or VOC, for a profile that uses them"
    ),
    _Option(
        "download",
        action="store_true",
        help="download missing data sets into --data-root, those that torchvision can download",
    ),
    _Option(
        "encoder",
        metavar="timm:NAME|torchvision:NAME|FILE.py:FUNCTION",
        help="network to pre-train instead of the profile's encoder, with the padding that it has",
    ),
    _Option(
        "detector",
        metavar="torchvision|detectron2",
        help="library that trains and evaluates the detector (default: the profile's)",
    ),
    _Option("device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to train (default: auto)"),
    _Option(
        "jobs",
        type=int,
        metavar="N",
        help="worker processes, each of which trains one encoder at a time (default: one for each CPU core or GPU)",
    ),
    _Option(
        "gpus-per-model",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that pre-train one encoder together, with the batch divided among them; on a CPU, processes "
        "(default: 1)",
    ),
    _Option(
        "share-views",
        type=int,
        default=1,
        metavar="N",
        help="encoders that a worker pre-trains in lock-step, on views that are made once for all of them (default: 1)",
    ),
    _Option(
        "timeout-per-encoder",
        metavar="1h30m",
        help="longest time for one encoder, such as 90s or 1h30m; one that takes longer is ended, and has failed",
    ),
    _Option(
        "engine",
        default="local",
        choices=("local", "ray"),
        help="where the workers run: on this machine, or on a Ray cluster (default: local)",
    ),
    _Option(
        "store",
        default=".cl_bench",
        metavar="DIR",
        help="folder that keeps every result, so that nothing is computed twice (default: .cl_bench)",
    ),
    _Option(
        "report", metavar="DIR", help="folder for the report, its tables and figures (default: STORE/report/PROFILE)"
    ),
    _Option(
        "rerun",
        default="missing",
        choices=("missing", "failed", "all"),
        help="what to compute: what the store lacks (missing, the default), what diverged too (failed), or all",
    ),
    _Option(
        "baseline",
        metavar="FILE",
        help="fail where tau or mean performance is significantly worse than in FILE, and not for a verdict alone",
    ),
    _Option(
        "save-baseline",
        metavar="FILE",
        help="write this run's figures to FILE for --baseline; figures of other rows in it are kept",
    ),
    _Option(
        "strict-claims", action="store_true", help="fail INCONCLUSIVE claims too; without it only REFUTED ones fail"
    ),
    _Option("list-methods", action="store_true", help="list the methods with their options, and run nothing"),
    _Option(
        "predictor",
        action="append",
        default=[],
        metavar="NAME|FILE.py[:NAME]",
        help="figure of the features to compare with alignment + uniformity as a predictor of performance, repeatable",
    ),
    _Option("list-predictors", action="store_true", help="list the predictors, and run nothing"),
    _Option(
        "from-store",
        action="store_true",
        help="compute nothing: judge what the store holds, and skip rows that it lacks",
    ),
    _Option(
        "plan",
        action="store_true",
        help="list what would be trained, how long it takes and what it could show; train nothing",
    ),
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
    share_views: int
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
