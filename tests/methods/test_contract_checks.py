"""The contract: each wrong plugin fails exactly the check that it should, with its own line; sound ones pass."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest
import torch
from helpers import ROOT, environment, tiny_profile

from cl_bench.methods.contract import CHECKS, NotApplicable
from cl_bench.methods.registry import Registry
from cl_bench.predictors.contract import CHECKS as PREDICTOR_CHECKS

pytest_plugins = ["pytester"]

CPU = torch.device("cpu")
SUITE = ROOT / "suites" / "test_contract.py"


class Wrong(NamedTuple):
    """A wrong plugin's body and how it is found out: by which check, with what said; ``# here`` marks the line."""

    body: str
    check: str
    said: str


WRONG = {
    "drawn": Wrong(
        "return Match(weights=torch.rand(B, P, P).softmax(-1))",
        "repeats_itself",
        r"the same views a second time give another match: image \d, view \d to view \d, weight of cell \d+ for cell",
    ),
    "stateful": Wrong(
        "seen.append(views.h1.mean()); return Match(weights=(cosine * len(seen)).softmax(-1))",
        "repeats_itself",
        "the same views a second time give another match",
    ),
    "alternating": Wrong(
        "seen.append(0); return Match(index=torch.arange(P).roll(len(seen) % 2).expand(B, P))",
        "treats_identical_views_alike",
        "the way back differs from the way there: image 0, view 1 to view 2, weight of cell 0 for cell 0 is 0 and 1",
    ),
    "batch_mean": Wrong(
        "return Match(weights=(5 * (views.h1 - views.h1.mean(0)) @ views.h2.mT).softmax(-1))",
        "looks_at_one_image_at_a_time",
        "the match of an image depends on the other images of its batch: image",
    ),
    "place_in_batch": Wrong(
        "return Match(index=(torch.arange(P) + torch.arange(B)[:, None]) % P)",
        "follows_the_order_of_the_batch",
        "the match of an image depends on its place in the batch: image 0",
    ),
    "gradient": Wrong(
        """
        with torch.enable_grad():
            return Match(weights=(views.z1 @ views.z2.mT).softmax(-1))  # here
        """,
        "carries_no_gradient",
        r"weights \(4, 12, 12\) carry a gradient; matching is detached",
    ),
    "nan": Wrong("return Match(weights=cosine / 0 * 0)  # here", "gives_a_match", "must be finite and non-negative"),
    "negative": Wrong("return Match(weights=-cosine.softmax(-1))  # here", "gives_a_match", "finite and non-negative"),
    "rows": Wrong(
        "return Match(weights=cosine.exp())  # here", "gives_a_match", r"must sum to 1 or 0; row \[0, 0\] sums to"
    ),
    "shape": Wrong(
        "return Match(index=torch.zeros(B, P + 1, dtype=torch.int64))",
        "gives_a_match",
        r"match is for \(B, P\) = \(4, 13\), not \(4, 12\)",
    ),
    "kind": Wrong("return cosine", "gives_a_match", "must return a Match, got Tensor"),
    "nothing": Wrong("Match(index=cosine.argmax(-1))", "gives_a_match", "must return a Match, got NoneType"),
    "raises": Wrong(
        "raise KeyError('by name')  # here", "gives_a_match", r"KeyError: 'by name', on overlapping views$"
    ),
    "overlap_only": Wrong(
        """
        near = torch.cdist(views.xy1, views.xy2).amin() < views.size1.max()
        assert near or B == 1, "far apart"  # here
        return Match.identity(views)
        """,
        "gives_a_match",
        "AssertionError: far apart, on disjoint views$",
    ),
    "float16_only": Wrong(
        "return Match(index=(views.h1 @ views.h2.mT.half()).argmax(-1))  # here", "gives_a_match", "RuntimeError: "
    ),
    "not_in_half": Wrong(
        """
        q, _ = torch.linalg.qr(views.h1)  # here
        return Match(index=(q @ q.mT).argmax(-1))
        """,
        "bears_half_precision",
        r"NotImplementedError: .*, on torch\.bfloat16 features$",
    ),
    "in_place": Wrong(
        "views.norm2.mul_(0.5); return Match.identity(views)",
        "leaves_the_views_alone",
        r"it writes to views\.norm1, in 48 of 48 places",
    ),
    "dead": Wrong(
        """
        norm = views.norm1 - views.norm1.amin(1, keepdim=True)
        return Match(weights=(norm / norm.sum(1, keepdim=True)).unsqueeze(1).expand(B, P, P))  # here
        """,
        "bears_degenerate_views",
        "must be finite and non-negative, on one cell$",
    ),
    "dark": Wrong(
        """
        light = views.norm2 / views.norm2.sum(1, keepdim=True)
        return Match(weights=light.unsqueeze(1).expand(B, P, P))  # here
        """,
        "bears_degenerate_views",
        r"must be finite and non-negative, on dead cells \(equal features, of length 0\)$",
    ),
    "one_image": Wrong(
        """
        scale = views.h1.std(0).mean() if B < 3 else 1
        return Match(weights=(cosine / scale).softmax(-1))  # here
        """,
        "looks_at_one_image_at_a_time",
        "must be finite and non-negative, on one image$",
    ),
}

OWN = {
    "own_nan": Wrong(
        "def loss(self, views, objective): return LossTerms(views.z1.sum() * float('nan'), views.z2.sum())",
        "gives_a_loss",
        r"alignment of info_nce \(both_views\) is nan$",
    ),
    "own_random": Wrong(
        "def loss(self, views, objective): return LossTerms(views.z1.sum(), torch.rand(()) * views.z2.sum())",
        "gives_a_loss",
        r"the same views give distribution -?[\d.]+, then -?[\d.]+, of info_nce",
    ),
    "own_detached": Wrong(
        "def loss(self, views, objective): return LossTerms(views.h1.sum(), views.h2.sum())",
        "gives_a_loss",
        r"loss\(\) must be differentiable with respect to views\.z1 and views\.z2",
    ),
    "own_flat": Wrong(
        "def loss(self, views, objective): return LossTerms(views.z1.sum() * 0, views.z2.sum() * 0)",
        "gives_a_loss",
        r"no gradient of info_nce \(both_views\) reaches views\.z1 or views\.z2$",
    ),
    "own_raises": Wrong(
        """
        def loss(self, views, objective):
            return LossTerms(views.z1.sum(), views.missing)  # here
        """,
        "gives_a_loss",
        "AttributeError: 'DenseViews' object has no attribute 'missing'",
    ),
    "own_head": Wrong(
        """
        def head(self, encoder, spec): return torch.nn.Linear(encoder.channels, spec.projection)
        def match(self, views): return Match.identity(views)
        """,
        "projects_to_unit_vectors",
        r"its head must give unit vectors, got lengths from [\d.]+ to [\d.]+; end it with",
    ),
    "own_leak": Wrong(
        """
        def matches(self, views):
            with torch.enable_grad():
                weights = (views.z1 @ views.z2.mT).softmax(-1)
            forth, back = Match(weights=weights.detach()), Match.identity(views).reversed()
            object.__setattr__(forth, "weights", weights)
            object.__setattr__(back, "weights", (views.z2 @ views.z1.mT).softmax(-1).detach())
            return forth, back
        def match(self, views): return Match.identity(views)
        """,
        "carries_no_gradient",
        "the weights of its match carry a gradient",
    ),
}

SOUND = {
    "sound": "return Match(weights=(cosine * sharp).softmax(-1))",
    "sometimes": "return Match(index=cosine.argmax(-1), valid=cosine.amax(-1) > 0.5)",
    "never": "return Match(weights=torch.zeros_like(cosine))",
}
SOUND_OWN = {
    "sound_loss": "def loss(self, views, objective): return LossTerms(-(views.z1 * views.z2).mean(), views.z1.mean())",
    "sound_instance": "def match(self, views): return Match.identity(views)",
}


def plugins(folder: Path) -> dict[str, Path]:
    """Write a file for each plugin, and return the files by name."""
    head = "import torch\nfrom cl_bench import DenseViews, LossTerms, Match, Method, matching\n\nseen = []\n\n"
    texts = {}
    for name, body in {**{k: w.body for k, w in WRONG.items()}, **SOUND}.items():
        start = f'@matching("{name}")\ndef {name}(views: DenseViews, *, sharp: float = 3.0) -> Match:\n'
        body = "(B, P), cosine = views.z1.shape[:2], views.h1 @ views.h2.mT\n" + dedent(body).strip()
        if name == "float16_only":
            body = dedent(WRONG[name].body)
        texts[name] = start + indented(body)
    for name, body in {**{k: w.body for k, w in OWN.items()}, **SOUND_OWN}.items():
        level = ', level="instance"' if name == "sound_instance" else ""
        texts[name] = f'class Own(Method, name="{name}"{level}):\n' + indented(dedent(body).strip())
    files = {name: folder / f"{name}.py" for name in texts}
    for name, file in files.items():
        file.write_text(head + texts[name] + "\n")
    return files


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def place(file: Path) -> str:
    """Place of the fault: the line marked ``# here``, else that of the definition."""
    lines = file.read_text().splitlines()
    marked = [n for n, line in enumerate(lines, 1) if line.endswith("# here")]
    defined = [n for n, line in enumerate(lines, 1) if line.startswith(("@matching", "class"))]
    return f"{file}:{(marked or defined)[0]}"


class Outcome(NamedTuple):
    """Outcome of a check of a method."""

    kind: str
    said: str


class Run:
    """The contract of all plugins, in one process elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.files = plugins(folder)
        options = [f"--method=./{name}.py" for name in self.files if name != "sound"]
        options += ["--method", "./sound.py:sharp=7", "--method=dense_index", "--junitxml=out.xml"]
        self.done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(SUITE), *options],
            cwd=folder,
            env=environment(OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            timeout=240,
        )
        self.outcomes: dict[str, dict[str, Outcome]] = {}
        for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
            method, check, device = re.findall(r"\[(.*)-(\w+)-(\w+)\]", case.attrib["name"])[0]
            result = next(iter(case), None)
            kind, said = ("passed", "") if result is None else (result.tag, result.attrib["message"])
            if device == "cpu":
                self.outcomes.setdefault(method, {})[check] = Outcome(kind, said)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("plugins"))


@pytest.mark.parametrize("name", [*WRONG, *OWN])
@pytest.mark.slow
def test_a_wrong_plugin_fails_the_right_check_alone_and_is_told_where(run: Run, name: str) -> None:
    wrong, outcomes = (WRONG | OWN)[name], run.outcomes[name]
    assert [check for check, o in outcomes.items() if o.kind not in ("passed", "skipped")] == [wrong.check]
    said = outcomes[wrong.check].said.removeprefix("Failed: ")
    assert said.startswith(f"method {name!r} ({place(run.files[name])})")
    assert re.search(wrong.said, said)
    assert "\n" not in said.strip()
    reasons = {o.said for o in outcomes.values() if o.kind == "skipped"}
    assert all(re.search("builds on .*, which fails|own", reason) for reason in reasons)


@pytest.mark.parametrize("name", [*SOUND, "sound:sharp=7.0", *SOUND_OWN, "dense_index"])
@pytest.mark.slow
def test_a_sound_plugin_passes_beside_wrong_ones(run: Run, name: str) -> None:
    outcomes = run.outcomes.get(name) or run.outcomes["sound:sharp=7.0"]
    assert len(outcomes) == len(CHECKS)
    if name == "sound_loss":  # a loss of its own: two checks are about it
        assert {check for check, o in outcomes.items() if o.kind == "passed"} == {
            "gives_a_loss",
            "projects_to_unit_vectors",
        }
        assert all("it brings its loss" in o.said for o in outcomes.values() if o.kind != "passed")
    else:
        assert {o.kind for o in outcomes.values()} == {"passed"}


@pytest.mark.slow
def test_one_line_a_fault_and_nothing_trained(run: Run) -> None:
    assert run.done.returncode == 1
    assert "Traceback" not in run.done.stdout and "During handling" not in run.done.stdout
    assert "cl_bench/methods/c" not in run.done.stdout
    assert not list(run.files["sound"].parent.rglob("runs")) and "Error" not in run.done.stderr


# ---- checks of what cl-bench itself promises of a method's loss: here its losses are broken


# ---- the views it is tried on


# ---- in pytest


def collected(pytester: pytest.Pytester, *args: str) -> list[str]:
    options = "-p", "no:cacheprovider", f"--rootdir={ROOT}", "--collect-only", "-q"
    result = pytester.runpytest_inprocess(*options, str(ROOT / "suites"), *args)
    assert result.ret == 0
    return [line for line in result.stdout.lines if "::" in line]


def test_the_contract_comes_first(pytester: pytest.Pytester) -> None:
    ids = collected(pytester, "--method=dense_index", "--method=instance")
    contract = ["/test_contract.py::" in i or "::test_contract[" in i for i in ids]
    n = 2 * len(CHECKS) * (1 + torch.cuda.is_available()) + len(PREDICTOR_CHECKS)
    assert contract == [True] * n + [False] * (len(ids) - n)
    assert ids[n:] == sorted(ids[n:], key=lambda i: i.partition("::")[0])
    assert len(collected(pytester, "-k", "repeats_itself and cpu")) == 1


def test_a_plan_runs_no_contract_and_plans_only_what_is_trained(pytester: pytest.Pytester, tmp_path: Path) -> None:
    profile, store = tiny_profile(tmp_path / "tiny.toml"), tmp_path / "store"
    args = "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--profile={profile}", f"--store={store}", "--plan"
    result = pytester.runpytest_inprocess(*args, str(ROOT / "suites"), "--jobs=1")
    assert result.ret == 0 and result.parseoutcomes() == {}
    assert "18 encoders to compute" in result.stdout.str()


@pytest.mark.slow
def test_with_pytest_xdist_and_a_file(tmp_path: Path) -> None:
    plugins(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "-q", str(SUITE), "--method=./sound.py"],
        cwd=tmp_path,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CHECKS) * (1 + torch.cuda.is_available())} passed" in done.stdout


# ---- what the author's page says


def page(file: str) -> str:
    """Return the code of one file on the page."""
    text = (ROOT / "docs" / "adding-a-method.md").read_text()
    return re.findall(rf"```python\n# {file}\n(.*?)```", text, re.DOTALL)[0]


@pytest.mark.parametrize(("file", "passed"), [("my_match.py", len(CHECKS)), ("regress.py", 2)])
def test_the_methods_of_the_page_satisfy_the_contract(file: str, passed: int, tmp_path: Path) -> None:
    (tmp_path / file).write_text(page(file))
    method = Registry([]).resolve(file, tmp_path)
    done = []
    for check in CHECKS:
        try:
            check(method, CPU)
        except NotApplicable:
            continue
        done.append(check)
    assert len(done) == passed


def test_the_page_lists_every_check() -> None:
    text = (ROOT / "docs" / "adding-a-method.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert [name for name in listed if name in {c.__name__ for c in CHECKS}] == [c.__name__ for c in CHECKS]
