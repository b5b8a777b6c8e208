"""Tables in Markdown that say what a folder of results holds: ``python -m cl_bench.report.quote [--check] FILE...``.

A table stands between ``<!-- results/smoke: claims -->`` and ``<!-- end -->``. It is written from the records, claims
and stamp in that folder (relative to the working directory), and ``--check`` fails where it says anything else.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.claims import Claim, Sweep, judge
from cl_bench.correlation import bounded, correlate, tau_of
from cl_bench.records import EVALUATIONS, FAMILIES, LEVELS, RANDOM_INIT, Level, Record, configurations
from cl_bench.report.records_csv import read_records
from cl_bench.report.row import NAMES

_BLOCK = re.compile(r"(<!-- ([\w./-]+): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def quoted(text: str, root: Path) -> str:
    """The text with every table as the results under ``root`` have it.

    Raises:
        OSError: A folder that a table names, or a file of it, is not there.
        ValueError: A table of another name than those of ``TABLES``, or a file that is not of results.
    """

    def table(match: re.Match[str]) -> str:
        opening, folder, name, closing = match.groups()
        if name not in TABLES:
            raise ValueError(f"no table {name!r} of {folder}: tables: {', '.join(TABLES)}")
        return f"{opening}{TABLES[name](root / folder)}\n{closing}"

    return _BLOCK.sub(table, text)


def claims_table(folder: Path) -> str:
    """Every claim: tau in total, within the families and seed by seed, or what else it rests on; and its verdict.

    The verdict is judged anew from the records, which are what there is.
    """
    records = read_records(folder / "records.csv")
    lines = []
    for claim in json.loads((folder / "claims.json").read_text()):
        about, row = claim["claim"], claim["row"]
        aside = " (exploratory)" if about["exploratory"] else ""
        told = f"{_kind(about)}, {EVALUATIONS[about['level']]}{aside}"
        paper = (claim["paper"] or {}).get("numbers", "")
        lines.append([row, told, *_evidence(claim, records[row]), f"**{judged(claim, records)}**", paper])
    families = [NAMES[f] for f in FAMILIES[:2]]
    return _table(["row", "claim", "rests on", "within families", *families, "by seed", "verdict", "paper"], lines)


def tau_table(folder: Path) -> str:
    """The claims about tau alone: over seeds averaged, seed by seed, and the paper's."""
    records = read_records(folder / "records.csv")
    lines = []
    for claim in json.loads((folder / "claims.json").read_text()):
        if claim["correlation"] is not None:
            total, within, *_, by_seed = _evidence(claim, records[claim["row"]])
            evaluation = EVALUATIONS[claim["claim"]["level"]]
            paper = (claim["paper"] or {}).get("numbers", "")
            lines.append([claim["row"], evaluation, total, within, by_seed, f"**{judged(claim, records)}**", paper])
    return _table(["row", "evaluation", "tau", "within families", "tau seed by seed", "verdict", "paper"], lines)


OTHER_KERNEL = "-other-kernel"
"""What follows the name of a folder whose results are of the same specs, with other kernels of the same library."""


def verdicts_table(folder: Path) -> str:
    """The verdict on every claim: of all seeds, of each seed alone, and with other kernels where such results are."""
    records = read_records(folder / "records.csv")
    claims = json.loads((folder / "claims.json").read_text())
    seeds = sorted({r.seed for runs in records.values() for r in runs if r.family != RANDOM_INIT})
    columns = {"all seeds": [judged(claim, records) for claim in claims]}
    for seed in seeds:
        of_seed = {row: [r for r in runs if r.seed == seed or r.family == RANDOM_INIT] for row, runs in records.items()}
        columns[f"seed {seed}"] = [judged(claim, of_seed) for claim in claims]
    other = folder.with_name(folder.name + OTHER_KERNEL)
    if other.is_dir():
        found = read_records(other / "records.csv")
        used = sorted({r.seed for runs in found.values() for r in runs if r.family != RANDOM_INIT})
        named = f"seed{'s' if len(used) > 1 else ''} {', '.join(map(str, used))}, other kernels"
        columns[named] = [judged(claim, found) for claim in claims]
    lines = [
        [claim["row"], f"{_kind(claim['claim'])}, {EVALUATIONS[claim['claim']['level']]}", *verdicts]
        for claim, *verdicts in zip(claims, *columns.values(), strict=True)
    ]
    agree = [sum(map(str.__eq__, columns["all seeds"], verdicts)) for verdicts in columns.values()]
    lines.append(["as with all seeds", f"of {len(claims)}", *map(str, agree)])
    return _table(["row", "claim", *columns], lines)


def judged(told: Mapping[str, Any], records: Mapping[str, Sequence[Record]]) -> str:
    """The verdict that records by row, untrained ones among them, give on a claim of ``claims.json``."""
    claim = Claim(**told["claim"])
    own = records[told["row"]]

    def sweep(name: str) -> Sweep:
        trained = [r for r in records[name] if r.family != RANDOM_INIT]
        return Sweep(name, trained, [r.case for r in trained])

    def beside(**change: str) -> Sweep | None:
        """The row that differs in that alone; as ``Session.pulled_by`` finds it."""
        mine = next(r for r in own if r.family != RANDOM_INIT)
        alike = {name: change.get(name, getattr(mine, name)) for name in ("method", "data", "views")}
        rows = (
            n for n, runs in records.items() if any(all(getattr(r, k) == v for k, v in alike.items()) for r in runs)
        )
        return next(map(sweep, rows), None)

    reference = twin = None
    if claim.kind == "falls_behind":
        of_scenes = [name for name in records if f"-{claim.against}-" in name] if claim.against else []
        reference = sweep(of_scenes[0]) if of_scenes else beside(data="single_object")
    if "disjoint" in {r.views for r in own if r.family != RANDOM_INIT}:
        plain = next(r for r in own if r.family != RANDOM_INIT).data.partition(",")[0]  # of scenes as they come
        twin = beside(views="overlapping", data=plain)
    untrained = [r for r in own if r.family == RANDOM_INIT]
    found = told.get("prediction")
    better = {claim.predictor.partition("@")[0]: found["better"]} if found and found["better"] else {}
    swept = sweep(told["row"])
    return str(judge(claim, swept, untrained, told["alpha"], reference=reference, twin=twin, better=better).verdict)


def _kind(about: Mapping[str, Any]) -> str:
    return f"{about['kind']} {about.get('predictor', '')}".rstrip()


def _has(record: Record, values: Mapping[str, str]) -> bool:
    return all(getattr(record, name) == value for name, value in values.items())


def _evidence(claim: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    if predicted := claim.get("prediction"):
        tau = "undefined" if predicted["tau"] is None else f"{predicted['tau']:.2f}"
        return [f"tau {tau}, n {predicted['n']}", "", "", "", ""]
    if claim["correlation"] is None:
        found = claim["contrast"] or claim["comparison"]
        if found is None:
            return ["nothing", "", "", "", ""]
        middle = found.get("difference", found.get("mean"))
        return [f"{middle:+.1f} points [{found['low']:+.1f}, {found['high']:+.1f}], n {found['n']}", "", "", "", ""]
    level: Level = claim["claim"]["level"]
    trained = [r for r in records if r.family != RANDOM_INIT]
    total, *families = (correlate(trained, level, family) for family in ("total", *FAMILIES[:2]))
    seeds = sorted({r.seed for r in trained})
    by_seed = (tau_of([r for r in trained if r.seed == seed], level) for seed in seeds)
    inside = bounded(total.within, total.within_low, total.within_high)
    within = f"{inside}, worth {total.effective_n:.1f}"
    return [f"tau {total}, n {total.n}", within, *map(str, families), " ".join(f"{tau:.2f}" for tau in by_seed)]


def learnt_table(folder: Path) -> str:
    """What each row's encoders learnt: performance beside untrained ones', and the shares of the shortcut probes."""
    lines = []
    for row, records in read_records(folder / "records.csv").items():
        trained = [r for r in records if r.family != RANDOM_INIT]
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
    return _table(["row", *columns, "position", "image", "colour"], lines)


def environment_line(folder: Path) -> str:
    """The stamp in a sentence."""
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
    "verdicts": verdicts_table,
    "learnt": learnt_table,
    "environment": environment_line,
}


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns that are empty throughout are left out."""
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines)]

    def rows() -> Iterator[Sequence[str]]:
        yield columns
        yield ["---"] * len(columns)
        yield from lines

    return "\n".join(f"| {' | '.join(line[i].replace('|', chr(92) + '|') for i in kept)} |" for line in rows())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables of some files, or say which files are not as their results are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table differs")
    given = parser.parse_args(arguments)
    differ = []
    for file in given.files:
        text = file.read_text(encoding="utf-8")
        try:
            now = quoted(text, Path.cwd())
        except (OSError, ValueError) as error:
            parser.error(f"{file}: {error}")
        if now != text:
            differ.append(str(file))
            if not given.check:
                file.write_text(now, encoding="utf-8")
    if given.check and differ:
        print(f"not as the results are: {', '.join(differ)}; python -m cl_bench.report.quote {' '.join(differ)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
