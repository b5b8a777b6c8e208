"""Finding methods: plugins in folders, found by name with options, and what happens to those that are broken."""

from __future__ import annotations

import hashlib
from textwrap import dedent

import pytest
import torch

from cl_bench import DenseViews
from cl_bench.errors import MethodError
from cl_bench.method import REGISTERED
from cl_bench.registry import BUILT_IN, Registry, spec_of
from cl_bench.spec import MethodSpec

HEADER = "from cl_bench import DenseViews, LossTerms, Match, Method, matching\n"


@pytest.fixture(autouse=True)
def _nothing_stays_registered():
    Registry()  # the built-in ones stay: a module is imported once
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


@pytest.fixture
def plugin(tmp_path):
    """Write a plugin; returns its path."""

    def write(file, text, folder="."):
        path = tmp_path / folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + dedent(text), encoding="utf-8")
        return path

    return write


def strategy(name, options="", body="return Match.identity(views)"):
    return f"""
        @matching({name!r})
        def {name}(views: DenseViews{options}) -> Match:
            {body}
        """


def views(B=2, P=3):
    z = torch.nn.functional.normalize(torch.ones(B, P, 2), dim=-1)
    return DenseViews(z, z, z, z, z, z, torch.ones(B, 2), torch.ones(B, 2), (1, P))


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
    assert both.folders == (tmp_path.resolve(), (tmp_path / "deeper").resolve())
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


OPTIONS = ", *, epsilon: float = 0.5, steps: int = 3, hard: bool = False, rule: str = 'a'"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("r_opts", {}),
        ("r_opts:", {}),
        ("r_opts:epsilon=0.1", {"epsilon": 0.1}),
        ("r_opts: epsilon = 0.1 , steps=4,", {"epsilon": 0.1, "steps": 4}),
        ("r_opts:hard=true,rule=b=c", {"hard": True, "rule": "b=c"}),
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
        ("raise RuntimeError", "RuntimeError: "),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("def (", "SyntaxError: "),
        ("class Nameless(Method): pass", "TypeError: "),
        ("matching('r_odd', level='cell')(lambda views: None)", "MethodError: "),
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
    assert f"failed to load {broken}: {complaint}" in str(error.value)
    assert "\n" not in str(error.value) and "second line" not in str(error.value)


def test_a_plugin_that_was_mended_loads(tmp_path, plugin):
    plugin("mended.py", "raise RuntimeError")
    assert Registry([tmp_path]).names == ()
    plugin("mended.py", strategy("r_mended"))
    registry = Registry([tmp_path])
    assert registry.names == ("r_mended",) and registry.broken == []


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_plugins_of_one_name_are_an_error_that_names_both(tmp_path, plugin, order):
    files = [plugin(f"{folder}.py", strategy("r_same"), folder=folder) for folder in "ab"]
    registry = Registry([tmp_path / folder for folder in order])
    with pytest.raises(MethodError, match="two methods are named 'r_same'") as error:
        registry.resolve("r_same")
    assert all(f"{file}:" in str(error.value) for file in files)


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


def test_spec_of_has_the_source_and_the_options_that_were_changed(tmp_path, plugin):
    file = plugin("opts.py", strategy("r_opts", OPTIONS))
    registry = Registry([tmp_path])
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    assert spec_of(registry.resolve("r_opts")) == MethodSpec(name="r_opts", level="dense", source=source)
    assert spec_of(registry.resolve("r_opts:epsilon=0.50,hard=0")) == spec_of(registry.resolve("r_opts"))
    spec = spec_of(registry.resolve("r_opts:steps=4,hard=1,epsilon=0.25"))
    assert spec.options == (("epsilon", 0.25), ("hard", True), ("steps", 4))
    assert spec == spec_of(registry.resolve("r_opts:epsilon=0.25,hard=1,steps=4"))
    assert str(spec) == "r_opts:epsilon=0.25,hard=True,steps=4"
    assert spec_of(registry.resolve(str(spec))) == spec  # a name that is printed can be typed
    assert spec_of(Registry().resolve("instance")).level == "instance"


def test_spec_of_changes_with_the_file(tmp_path, plugin):
    file = plugin("changing.py", strategy("r_changing"))
    method = Registry([tmp_path]).resolve("r_changing")
    before = spec_of(method)
    assert spec_of(method) == before
    file.write_text(file.read_text() + "# another word\n")
    after = spec_of(method)
    assert after.source != before.source and after.key != before.key
