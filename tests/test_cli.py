"""The command ``cl-bench``: its sub-commands, and what it says of mistakes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers import ROOT, environment
from jobs import TAU_FALLS, TAU_RISES, Job

from cl_bench.cli import COMMANDS, main
from cl_bench.methods.registry import Registry

pytest_plugins = ["pytester"]


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cl_bench.cli import main; main(['--help'])\n"
        "print([m for m in ('torch', 'pytest', 'scipy', 'pydantic', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(PYTHONPATH=str(ROOT))
    )
    assert done.stdout.rstrip().endswith("[]")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_a_command_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mesure", "x"]) == 4
    assert "no command 'mesure'; did you mean 'measure'?" in capsys.readouterr().err
    assert main([]) == 4


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cl-bench 0.")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "measure"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: cl-bench {name}" in capsys.readouterr().out


def test_a_suite_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--suite", "single_objects"]) == 4
    assert "no suite 'single_objects'; did you mean 'single_object'?" in capsys.readouterr().err


def test_an_option_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--profil", "ci"]) == 4
    said = "cl-bench data: no option '--profil'; did you mean '--profile'?; cl-bench data --help lists them\n"
    assert capsys.readouterr().err == said
    assert main(["data", "ci"]) == 4
    assert capsys.readouterr().err.startswith("cl-bench data: takes no argument 'ci' here")


@pytest.mark.parametrize("module", ["cl_bench.data.__main__", "cl_bench.commands.measure"])
def test_options_of_a_module_are_not_shortened_either(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, "no_such", "--prof", "ci"])
    with pytest.raises(SystemExit) as ended:
        import_module(module).main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and "error: unrecognized arguments: " in said and "--prof" in said


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cl_bench.commands.methods.run", interrupted)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "cl-bench methods: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="its pipes differ")
def test_output_that_nobody_reads_to_its_end_is_no_traceback() -> None:
    code = (
        "import sys, cl_bench.commands.methods as m; from cl_bench.cli import main\n"
        "m.run = lambda _: print('line\\n' * 10**6) or 0; sys.exit(main(['methods']))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    assert running.stdout is not None and running.stderr is not None
    assert running.stdout.read(4) == b"line"
    running.stdout.close()
    assert running.wait(60) == 141 and running.stderr.read() == b""
    running.stderr.close()


@pytest.mark.parametrize(
    "command", [["measure", "small_cnn", "--report"], ["measure", "small_cnn", "--store"], ["data", "--sheet"]]
)
def test_a_file_in_place_of_a_folder_is_told_at_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("")
    for folder, what in (("mine", "is a file"), ("mine/below", "mine is a file")):
        assert main([*command, folder]) == 4
        said = capsys.readouterr().err
        assert said == f"cl-bench {command[0]}: {command[-1]} {folder}: {what}; it takes a folder\n"


# ---- new-method


def test_a_new_method_is_a_file_that_loads_and_holds_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from cl_bench.methods.contract import CHECKS

    monkeypatch.chdir(tmp_path)
    assert main(["new-method", "my_match"]) == 0
    registry = Registry(())
    for options in ("", ":mutual=true"):
        method = registry.resolve(f"./my_match.py:my_match{options}")
        for check in CHECKS:
            check(method, torch.device("cpu"))
    before = Path("my_match.py").read_text()
    assert main(["new-method", "my_match"]) == 4
    assert "my_match.py is there already" in capsys.readouterr().err and Path("my_match.py").read_text() == before


@pytest.mark.parametrize("name", ["My-Match", "1st", "a/b", ""])
def test_a_new_method_of_a_name_that_is_no_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-method", name]) == 4
    assert f"{name!r} is not made of lower-case letters, digits and _" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "why"), [("class", "a word of Python's"), ("dense_index", "a method"), ("all", "a method")]
)
def test_a_new_method_is_not_named_as_what_there_is(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-method", name]) == 4
    assert why in capsys.readouterr().err and not list(tmp_path.iterdir())


# ---- compare


@pytest.fixture
def kept(tmp_path: Path, pytester: pytest.Pytester) -> dict[str, Path]:
    """Two runs of two seeds, of which the second's tau is the first's turned round, and one of them again."""
    files = {}
    for name, performance in (("before", TAU_FALLS), ("after", TAU_RISES), ("same", TAU_FALLS)):
        folder = tmp_path / name
        folder.mkdir()
        job = Job(folder, pytester, seeds=3)
        job.plant(performance)
        files[name] = tmp_path / f"{name}.json"
        job.run(f"--save-baseline={files[name]}", "-k", "tau")
    return files


def test_compare(kept: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(kept["before"]), str(kept["same"])]) == 0
    assert "SUPPORTED" in capsys.readouterr().out
    assert main(["compare", str(kept["before"]), str(kept["after"])]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "SUPPORTED -> REFUTED" in told and "more than max_tau_drop = 0.1" in told
    assert main(["compare", str(kept["before"]), str(kept["after"]), "--max-tau-drop=2"]) == 0


def test_compare_what_is_not_comparable(
    kept: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(kept["before"]), str(tmp_path / "none.json")]) == 4
    assert "none.json: No such file" in capsys.readouterr().err
    odd = tmp_path / "odd.json"
    odd.write_text("[]")
    assert main(["compare", str(odd), str(kept["before"])]) == 4
    assert "not a baseline" in capsys.readouterr().err
    assert main(["compare", str(kept["before"]), str(kept["same"]), "--alpha=2"]) == 4
    assert "--alpha must be between 0 and 1, got 2" in capsys.readouterr().err
