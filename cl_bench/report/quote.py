"""Tables and pictures that say what a folder of results holds: ``python -m cl_bench.report.quote [--check] FILE...``.

A file in Markdown has tables. One is between ``<!-- results/smoke: claims -->`` and ``<!-- end -->``. It is written
from the records, claims and environment in that folder (relative to the working directory). ``NAME.svg`` is the
overview of ``results/NAME``.
``--check`` changes nothing and fails where a file differs from the results.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.claims.comparison import Contrast
from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import Judgement, Sweep
from cl_bench.claims.league import Standing, league, ranked
from cl_bench.report.overview import overview_svg
from cl_bench.report.records_csv import read_records
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import EVALUATIONS, FAMILIES, LEVELS, NAMES, RANDOM_INIT, Level, Record, configurations
from cl_bench.statistics.controls import controls
from cl_bench.statistics.correlation import correlate, tau_of

_BLOCK = re.compile(r"(<!-- ([\w./-]+): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def quoted(text: str, root: Path) -> str:
    """Return the text with every table written from the results under ``root``.

    Raises:
        OSError: If a folder that a table names, or a file in it, does not exist.
        ValueError: If a table's name is not in ``TABLES``, or a file does not hold results.
    """

    def table(match: re.Match[str]) -> str:
        opening, folder, name, closing = match.groups()
        if name not in TABLES:
            raise ValueError(f"no table {name!r} of {folder}: tables: {', '.join(TABLES)}")
        return f"{opening}{TABLES[name](root / folder)}\n{closing}"

    return _BLOCK.sub(table, text)


def claims_table(folder: Path) -> str:
    """Write a table of every claim: its tau in total, within families and by seed, or other evidence; its verdict.

    The verdict is judged again from the records in the folder.
    """
    records = read_records(folder / "records.csv")
    lines = []
    for claim in _claims(folder):
        found = judged(claim, records)
        told = f"{_named(found.claim)}{' (exploratory)' if found.claim.exploratory else ''}"
        lines.append([found.row, told, *_evidence(found, records[found.row]), f"**{found.verdict}**", _paper(claim)])
    families = [NAMES[f] for f in FAMILIES[:2]]
    columns = ["row", "claim", "rests on", "within families", *families, "by seed", "verdict", "paper"]
    return markdown_table(columns, lines)


def controls_table(folder: Path) -> str:
    """Write a table of the controls of each tau, which are all over pairs within a family."""

    def two(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}"

    lines = []
    for row, records in read_records(folder / "records.csv").items():
        trained = _trained(records)
        for level in LEVELS:
            found, tau = controls(trained, level), correlate(trained, level)
            seeds = f"[{found.seeds_low:.2f}, {found.seeds_high:.2f}]" if found.seeds_low == found.seeds_low else ""
            negative = f"{found.negative:.0%}" if seeds else ""
            without = f"{found.without_low:.2f} to {found.without_high:.2f}"
            halves = f"{found.halves:.2f} (p {found.halves_p:.2g})"
            sums = [two(tau.within), tau.along, two(found.rank), two(found.z)]
            alone = [two(found.knob), two(tau.placebo), without, seeds, negative, two(found.losses)]
            lines.append([row, EVALUATIONS[level], halves, *sums, *alone])
    columns = ["row", "evaluation", "halves", "tau within", "along one knob", "rank sum", "z sum"]
    return markdown_table(
        [*columns, "knob alone", "placebo, 1 in 20 below", "without one", "re-seeded", "below 0", "r(L_a, L_u)"], lines
    )


def tau_table(folder: Path) -> str:
    """Write a table of the claims about tau alone: tau over averaged seeds, by seed, and in the paper."""
    records = read_records(folder / "records.csv")
    lines: dict[tuple[str, Level], list[str]] = {}
    for claim in _claims(folder):
        if claim["correlation"] is not None:
            found = judged(claim, records)
            verdict = f"{found.claim.symbols}: **{found.verdict}**"
            if line := lines.get((found.row, found.claim.level)):
                line[-2] += f"; {verdict}"
                continue
            total, within, *_, by_seed = _evidence(found, records[found.row])
            evaluation = EVALUATIONS[found.claim.level]
            lines[found.row, found.claim.level] = [
                found.row,
                evaluation,
                total,
                within,
                by_seed,
                verdict,
                _paper(claim),
            ]
    columns = ["row", "evaluation", "tau", "within families", "tau seed by seed", "verdict", "paper"]
    return markdown_table(columns, [*lines.values()])


OTHERS = {"-other-kernel": "other kernels", "-other-processor": "other processor"}
"""Suffixes of folders with results of the same specs that were rounded otherwise, and how: by other kernels of the same
library, or by the kernels that it has for another processor."""


def verdicts_table(folder: Path) -> str:
    """Write a table of verdicts on every claim: with all seeds, with each seed alone, and in each of ``OTHERS``."""
    records, claims = read_records(folder / "records.csv"), _claims(folder)
    told = {"all seeds": records}
    seeds = _seeds(records.values())
    for seed in seeds:
        told[f"seed {seed}"] = {
            row: [r for r in runs if r.seed == seed or r.family == RANDOM_INIT] for row, runs in records.items()
        }
    for suffix, how in OTHERS.items():
        other = folder.with_name(folder.name + suffix)
        if other.is_dir():
            found = read_records(other / "records.csv")
            used = _seeds(found.values())
            told[f"{'all seeds' if used == seeds else 'seed ' + ', '.join(map(str, used))}, {how}"] = found
    columns = {name: [str(judged(claim, of).verdict) for claim in claims] for name, of in told.items()}
    lines = [
        [claim["row"], _named(Claim(**claim["claim"])), *verdicts]
        for claim, *verdicts in zip(claims, *columns.values(), strict=True)
    ]
    agree = [sum(map(str.__eq__, columns["all seeds"], verdicts)) for verdicts in columns.values()]
    lines.append(["as with all seeds", f"of {len(claims)}", *map(str, agree)])
    return markdown_table(["row", "claim", *columns], lines)


def judged(told: Mapping[str, Any], records: Mapping[str, Sequence[Record]]) -> Judgement:
    """Judge a claim of ``claims.json`` by the records of each row, which include the untrained ones."""
    claim = Claim(**told["claim"])
    own = _trained(records[told["row"]])[0]

    def sweep(name: str) -> Sweep:
        trained = _trained(records[name])
        return Sweep(name, trained, [r.case for r in trained])

    def beside(**change: str) -> Sweep | None:
        """Return the row that differs in that alone, as ``Session.pulled_by`` does."""
        alike = {name: change.get(name, getattr(own, name)) for name in ("method", "data", "views")}
        return next((sweep(row) for row, runs in records.items() if any(_has(r, alike) for r in runs)), None)

    reference = twin = None
    if claim.kind == "falls_behind":
        of_scenes = [name for name in records if f"-{claim.against}-" in name] if claim.against else []
        reference = sweep(of_scenes[0]) if of_scenes else beside(data="single_object")
    elif claim.paired:
        methods = {told["comparison"][side] for side in ("reference", "other")}
        reference = beside(method=(methods - {own.method}).pop())
    if own.views == "disjoint":
        twin = beside(views="overlapping", data=own.data.partition(",")[0])  # of scenes without changes
    untrained = [r for r in records[told["row"]] if r.family == RANDOM_INIT]
    found = told.get("prediction")
    better = {claim.predictor.partition("@")[0]: found["better"]} if found and found["better"] else {}
    return judge(claim, sweep(told["row"]), untrained, told["alpha"], reference=reference, twin=twin, better=better)


def _claims(folder: Path) -> list[dict[str, Any]]:
    """Return the claims of a folder, by row; of each row the paper's come first, of these the ones about tau."""
    found: list[dict[str, Any]] = json.loads((folder / "claims.json").read_text())
    rows = [*dict.fromkeys(claim["row"] for claim in found)]
    return sorted(found, key=lambda claim: (rows.index(claim["row"]), *Claim(**claim["claim"]).place))


def _named(claim: Claim) -> str:
    return f"{claim.kind}{f' {claim.predictor}' if claim.predictor else ''}, {EVALUATIONS[claim.level]}"


def _paper(claim: Mapping[str, Any]) -> str:
    return str((claim["paper"] or {}).get("numbers", ""))


def _trained(records: Iterable[Record]) -> list[Record]:
    return [r for r in records if r.family != RANDOM_INIT]


def _seeds(rows: Iterable[Iterable[Record]]) -> list[int]:
    return sorted({r.seed for records in rows for r in _trained(records)})


def _has(record: Record, values: Mapping[str, str]) -> bool:
    return all(getattr(record, name) == value for name, value in values.items())


def _evidence(found: Judgement, records: Sequence[Record]) -> list[str]:
    if found.prediction is not None:
        return [f"tau {found.prediction}, n {found.prediction.n}", "", "", "", ""]
    if found.correlation is None:
        between = found.contrast or found.comparison
        if between is None:
            return ["nothing", "", "", "", ""]
        middle = between.difference if isinstance(between, Contrast) else between.mean
        return [f"{middle:+.1f} points [{between.low:+.1f}, {between.high:+.1f}], n {between.n}", "", "", "", ""]
    level, total, trained = found.claim.level, found.correlation, _trained(records)
    families = [str(correlate(trained, level, family)) for family in FAMILIES[:2]]
    by_seed = (tau_of([r for r in trained if r.seed == seed], level) for seed in _seeds([trained]))
    within = f"{total.inside}, worth {total.effective_n:.1f}"
    return [f"tau {total}, n {total.n}", within, *families, " ".join(f"{tau:.2f}" for tau in by_seed)]


def learnt_table(folder: Path) -> str:
    """Write a table of what each row's encoders learnt: performance, untrained performance, and shortcut probes."""
    lines = []
    for row, records in read_records(folder / "records.csv").items():
        trained = _trained(records)
        plain = [r for r in records if r.family == RANDOM_INIT]
        cells = [row]
        for level in LEVELS:
            scores = [c.performance for c in configurations(trained, level)[0]]
            reference = statistics.fmean(r.performance[level] for r in plain)
            above = sum(score > reference for score in scores)
            cells.append(f"{reference:.1f} / {statistics.median(scores):.1f} / {max(scores):.1f}")
            cells.append(f"{above} of {len(scores)}")
        for name in ("position_share", "image_share", "colour_share"):
            cells.append(f"{statistics.median(r.probes[name] for r in trained if r.probes):.2f}")
        lines.append(cells)
    figures = "untrained / median / best"
    columns = [f"linear evaluation, %: {figures}", "above", f"detection, AP: {figures}", "above"]
    return markdown_table(["row", *columns, "position", "image", "colour"], lines)


def predictors_table(folder: Path) -> str:
    """Write the league of built-in predictors, the best first: mean tau over rows, and its distance to the reference's.

    It is computed again from the records in the folder.
    """
    from cl_bench.predictors.registry import Predictors  # imports torch

    better = {predictor.name: predictor.better for predictor in Predictors((), ()).built_in}
    found = ranked(league(read_records(folder / "records.csv"), better))
    most = max((one.rows for one in found), default=0)
    lines = []
    for name, rows, standings in found:
        told = name if rows == most else f"{name} ({rows} of {most} rows)"
        lines.append([told, *(_standing(standings.get(level)) for level in LEVELS)])
    columns = ["predictor", *(EVALUATIONS[level] for level in LEVELS)]
    return markdown_table(columns, lines)


def _standing(one: Standing | None) -> str:
    if one is None:
        return ""
    against = "" if math.isnan(one.difference) else f" ({one.difference:+.2f}, p {one.p_holm:.2g})"
    return f"{one.tau:+.2f}{against}"


def environment_line(folder: Path) -> str:
    """Write the environment of the results in one sentence."""
    stamp = json.loads((folder / "environment.json").read_text())
    seeds = ", ".join(map(str, stamp["seeds"]))
    where = f"{stamp['device']} ({stamp['cpu_capability']}, {stamp['machine']})"
    return (
        f"`{stamp['command']}`: {stamp['encoders']} encoders, seeds {seeds}, profile `{stamp['profile']}`; {where}, "
        f"Python {stamp['python']}, torch {stamp['torch']}, torchvision {stamp['torchvision']}; "
        f"{stamp['begun'][0][:10]}, commit {stamp['commit']}."
    )


TABLES: Mapping[str, Callable[[Path], str]] = {
    "claims": claims_table,
    "tau": tau_table,
    "controls": controls_table,
    "verdicts": verdicts_table,
    "learnt": learnt_table,
    "predictors": predictors_table,
    "environment": environment_line,
}


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown; columns that are empty throughout are left out."""
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines)]

    def rows() -> Iterator[Sequence[str]]:
        yield columns
        yield ["---"] * len(columns)
        yield from lines

    return "\n".join(f"| {' | '.join(line[i].replace('|', chr(92) + '|') for i in kept)} |" for line in rows())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables and pictures of some files, or name the files that differ from their results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file differs")
    given = parser.parse_args(arguments)
    differ = []
    for file in given.files:
        try:
            text = file.read_text(encoding="utf-8")
            now = overview_svg(Path("results", file.stem)) if file.suffix == ".svg" else quoted(text, Path.cwd())
        except (OSError, ValueError) as error:
            parser.error(f"{file}: {error}")
        if now != text:
            differ.append(str(file))
            if given.check and file.suffix != ".svg":
                both = text.splitlines(), now.splitlines()
                print("\n".join(difflib.unified_diff(*both, str(file), "results", n=0, lineterm="")))
            if not given.check:
                file.write_text(now, encoding="utf-8")
    if given.check and differ:
        print(f"not as the results are: {', '.join(differ)}; python -m cl_bench.report.quote {' '.join(differ)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
