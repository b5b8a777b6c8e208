"""Finding methods: plugins in folders, found by name with options, and what happens to those that are broken."""

from __future__ import annotations

import os
from textwrap import dedent

import pytest
import torch
from method_files import OPTIONS, strategy

from cl_bench import DenseViews
from cl_bench.errors import MethodError
from cl_bench.methods.registry import BUILT_IN, Registry

pytestmark = pytest.mark.usefixtures("forget_methods")


def views(B=2, P=3):
    z = torch.nn.functional.normalize(torch.ones(B, P, 2), dim=-1)
    return DenseViews(z, z, z, z, z[..., 0], z[..., 0], z, z, torch.ones(B, 2), torch.ones(B, 2), (1, P))


def test_the_built_in_methods_are_found():
    registry = Registry()
    assert registry.broken == [] and {"dense_index", "instance"} <= set(registry.names)
    assert {f.stem for f in BUILT_IN.glob("[!_]*.py")} <= set(registry.names)
    assert registry.resolve("dense_index").level == "dense" and registry.resolve("instance").level == "instance"
    for name in registry.names:
        method = registry.resolve(name)
        assert method.file.parent == BUILT_IN and type(method).__doc__
        assert all(m.shape == (2, 3) for m in method.matches(views()))


def test_plugins_are_found_by_folder(tmp_path, plugin):
    plugin("one.py", strategy("r_one") + strategy("r_two"))
    plugin("_private.py", strategy("r_private"))
    plugin("notes.txt", strategy("r_text"))
    plugin("three.py", strategy("r_three"), folder="deeper")
    assert Registry([tmp_path]).names == ("r_one", "r_two")
    both = Registry([tmp_path, tmp_path / "deeper", tmp_path])
    assert both.names == ("r_one", "r_three", "r_two")
    assert both.places == (tmp_path.resolve(), (tmp_path / "deeper").resolve())
    assert Registry([tmp_path / "nowhere"]).names == ()


def test_a_second_registry_finds_the_same_plugins(tmp_path, plugin):
    plugin("again.py", strategy("r_again"))
    first, second = (Registry([tmp_path]) for _ in range(2))
    assert first.names == second.names == ("r_again",)
    assert first.broken == second.broken == []


def test_a_folder_under_another_name_is_the_same_folder(tmp_path, plugin):
    plugin("linked.py", strategy("r_linked"), folder="real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Registry([tmp_path / "link"]).names == Registry([tmp_path / "real"]).names == ("r_linked",)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("r_opts", {}),
        ("r_opts:", {}),
        ("r_opts:epsilon=0.1", {"epsilon": 0.1}),
        ("r_opts: epsilon = 0.1 , steps=4,", {"epsilon": 0.1, "steps": 4}),
        ("r_opts:hard=true,rule=b=c", {"hard": True, "rule": "b=c"}),
        ("r_opts:rule=a.py", {"rule": "a.py"}),
    ],
)
def test_resolve_reads_options(tmp_path, plugin, text, options):
    plugin("opts.py", strategy("r_opts", OPTIONS))
    assert Registry([tmp_path]).resolve(text).options == {
        "epsilon": 0.5,
        "steps": 3,
        "hard": False,
        "rule": "a",
        **options,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r_opts:epsilon", r"'r_opts': options are key=value, got 'epsilon'"),
        ("r_opts:0.1", r"options are key=value, got '0\.1'"),
        ("r_opts:epsilom=1", r"no option 'epsilom'; did you mean 'epsilon'\?"),
        ("r_opts:steps=many", r"option 'steps' takes int, got 'many'"),
        ("r_opt", r"no method 'r_opt'; did you mean 'r_opts'\?; methods: r_opts"),
        ("r_opt:steps=2", r"no method 'r_opt'"),
        ("", r"no method ''; methods: r_opts"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_nearest(tmp_path, plugin, text, message):
    plugin("opts.py", strategy("r_opts", OPTIONS))
    with pytest.raises(MethodError, match=message) as error:
        Registry([tmp_path]).resolve(text)
    assert "\n" not in str(error.value)


def test_a_positional_strategy_with_options_works_end_to_end(tmp_path, plugin):
    body = "return Match(index=Match.identity(views).index.roll(shift, 1))"
    plugin("rolled.py", strategy("r_rolled", ", *, shift: int = 1", body))
    forth, _ = Registry([tmp_path]).resolve("r_rolled:shift=2").matches(views())
    assert forth.index.tolist() == [[1, 2, 0]] * 2


def test_a_method_of_another_folder_is_not_found(tmp_path, plugin):
    plugin("here.py", strategy("r_here"), folder="a")
    plugin("there.py", strategy("r_there"), folder="b")
    Registry([tmp_path / "b"])
    with pytest.raises(MethodError, match="no method 'r_there'"):
        Registry([tmp_path / "a"]).resolve("r_there")


# Broken plugins


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("raise RuntimeError('half way\\nsecond line')", "RuntimeError: half way"),
        ("raise RuntimeError", "RuntimeError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("def (", "SyntaxError: "),
        ("class Nameless(Method): pass", "TypeError: "),
        ("matching('r_odd', level='cell')(lambda views: None)", "MethodError: "),
        ("raise SystemExit('no such library')", "SystemExit: no such library"),
        ("matching('r_other')(lambda views: None); 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_does_not_import_leaves_the_others_alone(tmp_path, plugin, text, complaint):
    plugin("a_good.py", strategy("r_good"))
    broken = plugin("b_broken.py", text)
    plugin("c_fine.py", strategy("r_fine"))
    registry = Registry([tmp_path])
    assert registry.names == ("r_fine", "r_good")
    assert registry.resolve("r_fine").matches(views())
    with pytest.raises(MethodError, match="no method 'r_other'") as error:
        registry.resolve("r_other")
    assert f"failed to load {broken}:2: {complaint}" in str(error.value)
    assert "\n" not in str(error.value) and "second line" not in str(error.value)


def test_a_plugin_that_was_mended_loads(tmp_path, plugin):
    plugin("mended.py", "raise RuntimeError")
    assert Registry([tmp_path]).names == ()
    plugin("mended.py", strategy("r_mended"))
    registry = Registry([tmp_path])
    assert registry.names == ("r_mended",) and registry.broken == []


def test_one_file_with_one_name_twice_is_an_error_that_names_both_lines(tmp_path, plugin):
    file = plugin("twins.py", strategy("r_twin") + strategy("r_twin"))
    with pytest.raises(MethodError, match=f"two methods are named 'r_twin': {file}:3 and {file}:7"):
        Registry([tmp_path]).resolve("r_twin")


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_plugins_of_one_name_are_an_error_that_names_both(tmp_path, plugin, order):
    files = [plugin(f"{folder}.py", strategy("r_same"), folder=folder) for folder in "ab"]
    registry = Registry([tmp_path / folder for folder in order])
    with pytest.raises(MethodError, match="two methods are named 'r_same'") as error:
        registry.resolve("r_same")
    assert all(f"{file}:" in str(error.value) for file in files)


def test_two_registries_may_know_one_name_by_different_files(tmp_path, plugin):
    files = [plugin(f"{folder}.py", strategy("r_same"), folder=folder) for folder in "ab"]
    assert [Registry([file.parent]).resolve("r_same").file for file in files] == files


# A file


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("one.py", {}),
        ("./one.py", {}),
        ("one.py:", {}),
        ("one.py:r_file", {}),
        ("one.py:steps=4,rule=b:c", {"steps": 4, "rule": "b:c"}),
        ("one.py:r_file:steps=4", {"steps": 4}),
        ("one.py::steps=4", {"steps": 4}),
        ("../{here}/one.py:r_file:steps=4,rule=a.py", {"steps": 4, "rule": "a.py"}),
        ("{folder}/one.py", {}),
    ],
)
def test_a_file_may_be_named(tmp_path, plugin, text, options):
    file = plugin("one.py", strategy("r_file", OPTIONS))
    registry = Registry([])
    method = registry.resolve(text.format(folder=tmp_path, here=tmp_path.name), tmp_path)
    assert (method.name, method.file) == ("r_file", file)
    assert method.options == method.defaults() | options
    assert registry.names == ("r_file",) and registry.places == (file,)
    assert Registry(registry.places).resolve("r_file").file == file  # as a worker process finds it


def test_a_file_is_relative_to_the_working_directory_if_nothing_is_said(tmp_path, plugin, monkeypatch):
    plugin("one.py", strategy("r_file"))
    monkeypatch.chdir(tmp_path)
    assert Registry([]).resolve("one.py").name == "r_file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("too.py", r"no file {folder}/too\.py; did you mean 'two\.py'\?$"),
        ("nowhere/two.py", r"no file {folder}/nowhere/two\.py$"),
        (".py", r"no file {folder}/\.py"),
        ("two.py", r"{folder}/two\.py holds several; methods: r_one, r_two; name one, as two\.py:r_one$"),
        ("two.py:steps=1", r"holds several; methods: r_one, r_two; name one, as two\.py:r_one$"),
        ("two.py:r_tow", r"two\.py has no method 'r_tow'; did you mean 'r_two'\?; methods: r_one, r_two$"),
        ("two.py:dense_index", r"two\.py has no method 'dense_index'"),
        ("two.py:r_one:steps=1", r"method 'r_one' has no option 'steps'"),
        ("two", r"no method 'two'.*; for the file of that name: --method \./two\.py; methods: "),
        ("two.py:r_one:steps", r"options are key=value, got 'steps'"),
        ("none.py", r'none\.py holds no method; mark a function with @matching\("its name"\)$'),
        ("bad.py", r"failed to load {folder}/bad\.py:6: ZeroDivisionError: division by zero$"),
        ("bad.py:r_bad", r"failed to load {folder}/bad\.py:6: ZeroDivisionError: division by zero$"),
        ("taken.py", r"two methods are named 'dense_index': .*methods/dense_index\.py:6 and {folder}/taken\.py:3$"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, plugin, text, message):
    plugin("two.py", strategy("r_one") + strategy("r_two"))
    plugin("none.py", "")
    plugin("bad.py", strategy("r_bad").rstrip() + "\n        1 / 0")
    plugin("taken.py", strategy("dense_index"))
    for registry in (Registry(), Registry([BUILT_IN, tmp_path / "none.py"])):
        for _ in range(2):  # asked again, the answer is the same
            with pytest.raises(MethodError, match=message.format(folder=tmp_path)) as error:
                registry.resolve(text, tmp_path)
            assert "\n" not in str(error.value)
        with pytest.raises(MethodError, match="no method 'r_bad'"):
            registry.resolve("r_bad")


def test_a_file_of_a_folder_that_is_known_is_the_same_plugin(tmp_path, plugin):
    plugin("one.py", strategy("r_one"))
    registry = Registry([tmp_path])
    assert type(registry.resolve("one.py", tmp_path)) is type(registry.resolve("r_one"))
    assert Registry().resolve(str(BUILT_IN / "instance.py")).name == "instance"


# All


def test_all_is_every_method_with_its_defaults(tmp_path, plugin):
    plugin("one.py", strategy("r_two", OPTIONS) + strategy("r_one"))
    registry = Registry([tmp_path])
    defaults = registry.resolve("r_two").defaults()
    assert [(m.name, m.options) for m in registry.select("all")] == [("r_one", {}), ("r_two", defaults)]
    assert [m.name for m in registry.select("r_two:steps=9")] == ["r_two"]
    with pytest.raises(MethodError, match="'all' stands for every method with its default options, got 'all:steps=1'"):
        registry.select("all:steps=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / 0", r"failed to load .*other\.py:2: Zero"), (strategy("r_one"), "two methods are named 'r_one'")],
)
def test_all_holds_what_may_not_be_left_out(tmp_path, plugin, text, message):
    plugin("one.py", strategy("r_one"))
    plugin("other.py", text)
    with pytest.raises(MethodError, match=message):
        Registry([tmp_path]).select("all")


# Entry points


# One plugin alone, as a worker process has it


def test_what_a_plugin_puts_into_the_environment_does_not_stay_there(plugin, monkeypatch):
    monkeypatch.setenv("R_CHANGED", "as it was")
    monkeypatch.setenv("R_GONE", "still here")
    text = 'import os\nos.environ["R_NEW"] = os.environ["R_CHANGED"] = "x"\ndel os.environ["R_GONE"]\n'
    before = dict(os.environ)
    Registry([plugin("loud.py", text + dedent(strategy("r_loud")))])
    assert dict(os.environ) == before


# In use


def test_a_strategy_that_raises_is_reported_with_its_place(tmp_path, plugin):
    file = plugin("raising.py", strategy("r_raising", body="raise ZeroDivisionError('by nought')"))
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if "raise" in text and "def" not in text)
    with pytest.raises(MethodError) as error:
        Registry([tmp_path]).resolve("r_raising").matches(views())
    assert str(error.value) == f"method 'r_raising' ({file}:{line}): ZeroDivisionError: by nought"


def test_a_subclass_in_a_plugin_knows_where_it_is(tmp_path, plugin):
    file = plugin(
        "own.py",
        """
        class Own(Method, name="r_own", level="instance"):
            def loss(self, views, objective):
                return LossTerms(views.z1.sum(), views.z2.sum())
        """,
    )
    method = Registry([tmp_path]).resolve("r_own")
    assert (method.level, method.origin) == ("instance", f"{file}:3")
    assert float(method.loss(views(), None).total) == pytest.approx(float(2 * views().z1.sum()))


# What identifies a method


# Strategies that are not plain functions of their own file


def test_a_link_is_the_file_it_leads_to(tmp_path, plugin):
    file = plugin("real.py", strategy("r_linked"), folder="elsewhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.py").symlink_to(file)
    registry = Registry([tmp_path / "folder"])
    assert registry.resolve(str(file)).name == registry.resolve("r_linked").name == "r_linked"


@pytest.mark.parametrize("error", ["BaseException", "pytest.skip.Exception"])
def test_a_plugin_that_raises_what_is_no_exception_leaves_the_others_alone(tmp_path, plugin, error):
    plugin("bad.py", f"import pytest\nraise {error}('not today')\n")
    plugin("good.py", strategy("r_good"))
    registry = Registry([tmp_path])
    assert registry.names == ("r_good",) and "not today" in registry.broken[0]


def test_a_strategy_that_exits_is_told_about(tmp_path, plugin):
    plugin("leaves.py", strategy("r_leaves", body="raise SystemExit(0)"))
    with pytest.raises(MethodError, match=r"method 'r_leaves' \(.*leaves\.py:\d+\): SystemExit: 0"):
        Registry([tmp_path]).resolve("r_leaves").matches(views())


def test_an_option_given_twice_is_refused():
    with pytest.raises(MethodError, match="method 'dense_emd': option 'epsilon' is given twice"):
        Registry().resolve("dense_emd:epsilon=0.1,epsilon=0.2")
