"""An author's way: a file of one's own, mistakes told of by their line, an installed package, the list of methods."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import ROOT, environment, tiny_profile

from cl_bench.methods.registry import BUILT_IN

pytest_plugins = ["pytester"]

HEADER = "import torch\nfrom cl_bench import DenseViews, LossTerms, Match, Method, matching\n\n"
STRATEGIES = {
    "good": "return Match.identity(views)",
    "raises": "raise RuntimeError('by nought\\nand more')  # here",
    "kind": "return views.z1",
    "shape": "return Match(index=torch.zeros(1, 1, dtype=torch.int64))",
    "nan": "return Match(weights=(views.h1 @ views.h2.mT) * torch.nan)  # here",
    "negative": "return Match(weights=(views.h1 @ views.h2.mT) - 2)  # here",
    "rows": "return Match(weights=torch.ones_like(views.h1 @ views.h2.mT))  # here",
    "gradient": """
        with torch.enable_grad():
            return Match(weights=(views.z1 @ views.z2.mT).softmax(-1))  # here
        """,
}
CLASSES = {
    "head_shape": """
        def head(self, encoder, spec): return torch.nn.Flatten()
        def match(self, views): return Match.identity(views)
        """,
    "head_raises": """
        def head(self, encoder, spec):
            return torch.nn.Linear(encoder.widths, 8)  # here
        """,
    "loss_kind": "def loss(self, views, objective): return views.z1.sum()",
    "loss_raises": """
        def loss(self, views, objective):
            return LossTerms(views.z1.sum(), views.nothing.sum())  # here
        """,
}
SAID = {
    "raises": "RuntimeError: by nought",
    "kind": "must return a Match, got Tensor",
    "shape": r"match is for (B, P) = (1, 1), not (32, 9)",
    "nan": "ValueError: Match: weights (32, 9, 9) must be finite and non-negative",
    "negative": "ValueError: Match: weights (32, 9, 9) must be finite and non-negative",
    "rows": "ValueError: Match: each row of weights must sum to 1 or 0; row [0, 0] sums to 9",
    "gradient": "ValueError: Match: weights (32, 9, 9) carry a gradient; matching is detached",
    "head_shape": "the head takes features (64, 9, 128) to (B, P, D) = (64, 9, D), got (64, 1152)",
    "head_raises": "AttributeError: 'Encoder' object has no attribute 'widths'",
    "loss_kind": "loss() must return LossTerms, got Tensor",
    "loss_raises": "AttributeError: 'DenseViews' object has no attribute 'nothing'",
}


def body(text: str) -> str:
    return "".join(f"    {line}\n" for line in dedent(text).strip().splitlines())


def write(file: Path, name: str) -> Path:
    if name in STRATEGIES:
        text = f'@matching("{name}")\ndef strategy(views: DenseViews) -> Match:\n' + body(STRATEGIES[name])
    else:
        text = f'class Own(Method, name="{name}"):\n' + body(CLASSES[name])
    file.write_text(HEADER + text)
    return file


def place(file: Path) -> str:
    lines = file.read_text().splitlines()
    return f"{file}:{next((n for n, line in enumerate(lines, 1) if line.endswith('# here')), 4)}"


def run(folder: Path, *args: str, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """Run pytest elsewhere, as in a user's own project."""
    paths = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *args],
        cwd=folder,
        env=environment(OMP_NUM_THREADS="1", COLUMNS="200", PYTHONPATH=os.pathsep.join(paths)),
        capture_output=True,
        text=True,
        timeout=240,
    )


def case(folder: Path, *args: str, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """One case of the smallest sweep for each method."""
    profile = tiny_profile(folder / "tiny.toml")
    options = f"--profile={profile}", f"--store={folder / 'store'}", "--device=cpu", "--jobs=1", "-rA"
    suite = str(ROOT / "suites" / "test_single_object.py")
    return run(folder, suite, "-k", "test_model and t0.2", *options, *args, path=path)


@pytest.mark.slow
def test_a_mistake_in_a_plugin_is_one_line_with_its_place_and_fails_its_own_cases_alone(tmp_path: Path) -> None:
    files = {name: write(tmp_path / f"my_{name}.py", name) for name in (*STRATEGIES, *CLASSES)}
    done = case(tmp_path, *(f"--method=./{file.name}" for file in files.values()))
    assert done.returncode == 1, done.stdout + done.stderr
    for name, said in SAID.items():
        about = [line for line in done.stdout.splitlines() if line.startswith(f"{name}-info_nce-t0.2-s0: ")]
        assert about, done.stdout
        assert f"method {name!r} ({place(files[name])})" in about[0] and said in about[0]
    assert re.search(rf"= {len(SAID)} failed, 1 passed, \d+ deselected", done.stdout), done.stdout
    assert "Traceback" not in done.stdout


def asked(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run the same inside this process, with pytest called in a folder of its own."""
    write(pytester.path / "my_good.py", "good")
    options = f"--profile={tiny_profile(pytester.path / 'tiny.toml')}", "--store=store", "--device=cpu", "--jobs=1"
    suite = str(ROOT / "suites" / "test_single_object.py")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", f"--rootdir={ROOT}", suite, *options, *args)


@pytest.mark.parametrize("text", ["{folder}/my_good.py", "my_good.py:good", "./sub/../my_good.py:good:"])
def test_a_file_of_one_s_own_is_relative_to_where_pytest_was_called(pytester: pytest.Pytester, text: str) -> None:
    pytester.mkdir("sub")
    result = asked(pytester, "--plan", "--method", text.format(folder=pytester.path))
    assert result.ret == 0
    assert "would compute single_object-overlapping-good: good-info_nce-t0.2-s0" in result.stdout.str()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("./my_goof.py", r"no file .*/my_goof\.py; did you mean 'my_good\.py'\?"),
        ("./my_good.py:gold", r".*my_good\.py has no method 'gold'; did you mean 'good'\?; methods: good"),
        ("./taken.py", r"two methods are named 'instance': .*/methods/instance\.py:\d+ and .*/taken\.py:4"),
        ("./half.py", r"failed to load .*/half\.py:7: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_usage_error(pytester: pytest.Pytester, text: str, said: str) -> None:
    good = write(pytester.path / "my_good.py", "good").read_text()
    (pytester.path / "taken.py").write_text(good.replace('"good"', '"instance"'))
    (pytester.path / "half.py").write_text(good + "1 / 0\n")
    result = asked(pytester, "--method", text)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.fullmatch(rf"ERROR: {said}", result.stderr.str().strip())


def test_all_is_every_method_there_is(pytester: pytest.Pytester) -> None:
    result = asked(pytester, "--plan", "--method=all", "--method=./my_good.py", "-k", "t0.2")
    assert result.ret == 0
    planned = set(re.findall(r"would compute single_object-overlapping-(\w+): ", result.stdout.str()))
    assert planned == {file.stem for file in BUILT_IN.glob("[!_]*.py")} | {"good"}


# ---- a package


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the example package is installed in."""
    pytest.importorskip("setuptools", reason="the example package is built with setuptools, which is not installed")
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(ROOT / "examples" / "cl-bench-example", folder / "source")  # a build writes beside its source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(folder / "site"), str(folder / "source")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_an_installed_package_is_listed_and_satisfies_the_contract(site: Path, tmp_path: Path) -> None:
    listed = run(tmp_path, str(ROOT / "suites"), "--list-methods", path=[site])
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^example_mutual +dense +least=0\.0 +Mutual nearest neighbours", listed.stdout, re.MULTILINE)
    done = run(tmp_path, str(ROOT / "suites" / "test_contract.py"), "--method=example_mutual", path=[site])
    assert done.returncode == 0, done.stdout
    assert re.search(r"= \d+ passed", done.stdout) and "skipped" not in done.stdout


@pytest.mark.slow
def test_an_installed_package_is_found_by_the_worker_processes(site: Path, tmp_path: Path) -> None:
    """Also where only this run of pytest has it on its path."""
    done = case(tmp_path, "-o", f"pythonpath={site}", "--method=example_mutual:least=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
