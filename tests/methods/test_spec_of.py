"""Specs of methods: the source and options that a method is known by."""

from __future__ import annotations

import hashlib

import pytest
from method_files import OPTIONS, strategy

from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import MethodSpec

pytestmark = pytest.mark.usefixtures("forget_methods")


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


def test_a_decorated_strategy_belongs_to_the_plugin_not_to_the_decorator(tmp_path, plugin):
    file = plugin(
        "under.py",
        """
        import torch
        from functools import partial

        @matching("r_under")
        @torch.no_grad()
        def under(views: DenseViews) -> Match:
            return Match.identity(views)

        @matching("r_beside")
        @torch.no_grad()
        def beside(views: DenseViews) -> Match:
            return Match.identity(views)

        matching("r_partial")(partial(lambda kind, views, *, reach=1.0: Match.identity(views), "kind"))
        """,
    )
    registry = Registry([tmp_path])
    assert registry.names == ("r_beside", "r_partial", "r_under") and not registry.broken
    for name in registry.names:
        method = registry.resolve(name)
        assert method.file == file
        assert spec_of(method).source == hashlib.sha256(file.read_bytes()).hexdigest()
    assert registry.resolve("r_partial:reach=2").options == {"reach": 2.0}
    assert registry.resolve("r_under").origin == f"{file}:6"


def test_methods_made_in_a_loop_are_all_there(tmp_path, plugin):
    plugin("loop.py", 'for k in (1, 2):\n    matching(f"r_loop{k}")(lambda views: Match.identity(views))\n')
    assert Registry([tmp_path]).names == ("r_loop1", "r_loop2")
