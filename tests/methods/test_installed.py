"""Methods of installed packages: found by entry point, imported only when asked for, broken ones set apart."""

from __future__ import annotations

import hashlib
import importlib
from textwrap import dedent

import pytest
from method_files import HEADER, strategy

from cl_bench.errors import MethodError
from cl_bench.methods.registry import BUILT_IN, Registry, spec_of

pytestmark = pytest.mark.usefixtures("forget_methods")


@pytest.fixture
def installed(tmp_path, monkeypatch, request):
    """Pretend to install the package ``{p}``: its modules, by name, and its entry points."""
    package = f"r_package_{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"

    def install(modules, *points):
        site = tmp_path / "site"
        (site / package).mkdir(parents=True)
        for name, text in modules.items():
            (site / package / f"{name}.py").write_text(HEADER + dedent(text), encoding="utf-8")
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [point.format(p=package) for point in points]
        (info / "entry_points.txt").write_text("\n".join(["[cl_bench.methods]", *lines]))
        monkeypatch.syspath_prepend(site)
        return site / package

    return install


@pytest.mark.parametrize(
    ("points", "names"),
    [
        (["m = {p}.one"], {"r_one"}),
        (["m = {p}.one:r_one"], {"r_one"}),
        (["m = {p}.both"], {"r_one", "r_two"}),
        (["a = {p}.one", "b = {p}.two:r_two"], {"r_one", "r_two"}),
        (["a = {p}.one", "b = {p}.both"], {"r_one", "r_two"}),
    ],
)
def test_an_installed_package_brings_its_methods(installed, points, names):
    modules = {"__init__": "", "one": strategy("r_one"), "two": strategy("r_two"), "both": "from . import one, two"}
    folder = installed(modules, *points)
    for _ in range(2):  # the modules are imported once
        registry = Registry([])
        assert set(registry.names) == names and registry.broken == []
    assert registry.resolve("r_one").file == folder / "one.py"
    assert spec_of(registry.resolve("r_one")).source == hashlib.sha256((folder / "one.py").read_bytes()).hexdigest()


def test_a_package_imported_by_somebody_before_brings_its_methods_too(installed):
    folder = installed({"__init__": strategy("r_early")}, "m = {p}")
    importlib.import_module(folder.name)
    assert Registry([]).names == ("r_early",)


@pytest.mark.parametrize(
    ("point", "complaint"),
    [
        ("{p}.bad", r"{p}\.bad: ZeroDivisionError: division by zero"),
        ("{p}.gone", r"{p}\.gone: ModuleNotFoundError: No module named '{p}\.gone'"),
        ("{p}.good:nothing", r"{p}\.good:nothing: AttributeError: "),
    ],
)
def test_a_broken_entry_point_is_a_complaint_of_what_it_might_have_held(installed, point, complaint):
    modules = {"__init__": "", "good": strategy("r_good"), "bad": strategy("r_bad").rstrip() + "\n        1 / 0"}
    folder = installed(modules, "a = {p}.good", f"b = {point}")
    registry = Registry()
    assert registry.resolve("r_good") and registry.resolve("dense_index")
    complaint = complaint.format(p=folder.name)
    with pytest.raises(MethodError, match=rf"no method 'r_bad'.*failed to load entry point b = {complaint}"):
        registry.resolve("r_bad")


def test_an_installed_method_may_not_take_a_name(installed):
    file = installed({"__init__": strategy("dense_index")}, "m = {p}") / "__init__.py"
    registry = Registry()
    with pytest.raises(MethodError, match=f"two methods are named 'dense_index': .*{file}:3") as error:
        registry.resolve("dense_index")
    assert f"{BUILT_IN / 'dense_index.py'}:6" in str(error.value)
    assert registry.resolve("instance")


def test_every_method_s_plugin_is_known(plugin, installed, tmp_path):
    package = installed({"__init__": "", "one": strategy("r_one")}, "m = {p}.one").name
    file = plugin("file.py", strategy("r_two") + strategy("r_three"), folder="own")
    assert Registry([tmp_path / "own"]).plugins == {"r_one": package, "r_two": str(file), "r_three": str(file)}


def test_only_the_plugin_that_is_asked_for_is_imported(plugin, installed, tmp_path):
    mark = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__ + '\\n')\n"
    package = installed({"__init__": mark, "one": strategy("r_one")}, "m = {p}.one").name
    file = plugin("file.py", mark + dedent(strategy("r_two")), folder="own")
    plugin("other.py", mark + dedent(strategy("r_three")), folder="own")
    alone = Registry.only(str(file))
    assert alone.names == ("r_two",) and alone.broken == []
    assert len((tmp_path / "imported").read_text().splitlines()) == 1
    alone = Registry.only(package)
    assert alone.names == ("r_one",) and alone.broken == []
    assert (tmp_path / "imported").read_text().splitlines()[1:] == [package]
