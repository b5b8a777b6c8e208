"""Options of a strategy: their types, their defaults, and what is refused."""

from __future__ import annotations

import pytest
from method_files import dense_views, optioned

from cl_bench import matching
from cl_bench.errors import MethodError
from cl_bench.methods.method import REGISTERED

pytestmark = pytest.mark.usefixtures("forget_methods")


def test_options_have_their_defaults():
    method, seen = optioned()
    assert method.defaults() == {"epsilon": 0.5, "steps": 3, "hard": False, "rule": "a"} == method().options
    method().match(dense_views())
    assert seen == [(0.5, 3, False, "a")]


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ({"epsilon": "0.1"}, {"epsilon": 0.1}),
        ({"epsilon": "2"}, {"epsilon": 2.0}),
        ({"epsilon": 2}, {"epsilon": 2.0}),
        ({"steps": "7", "rule": "7"}, {"steps": 7, "rule": "7"}),
        ({"hard": "true"}, {"hard": True}),
        ({"hard": "True"}, {"hard": True}),
        ({"hard": "1"}, {"hard": True}),
        ({"hard": "0"}, {"hard": False}),
        ({"hard": False}, {"hard": False}),
        ({"hard": "FALSE"}, {"hard": False}),
    ],
)
def test_options_take_the_type_of_their_default(given, parsed):
    options = optioned()[0](**given).options
    assert {k: options[k] for k in parsed} == parsed
    assert {k: type(options[k]) for k in parsed} == {k: type(v) for k, v in parsed.items()}
    assert {k: v for k, v in options.items() if k not in parsed}.items() <= optioned()[0].defaults().items()


def test_the_strategy_is_given_its_options():
    method, seen = optioned()
    chosen = method(steps="9", hard="1")
    chosen.match(dense_views())
    method().match(dense_views())
    assert seen == [(0.5, 9, True, "a"), (0.5, 3, False, "a")]


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("epsilon", "small", "float"),
        ("epsilon", "", "float"),
        ("epsilon", "nan", "float"),
        ("steps", "2.5", "int"),
        ("steps", 2.5, "int"),
        ("steps", "", "int"),
        ("hard", "yes", "bool"),
        ("hard", "2", "bool"),
    ],
)
def test_a_value_of_another_type_is_refused(option, value, kind):
    with pytest.raises(MethodError, match=f"'optioned'.*option {option!r} takes.*{kind}.*{value!r}"):
        optioned()[0](**{option: value})


def test_an_unknown_option_is_refused_by_name_with_the_nearest():
    with pytest.raises(
        MethodError, match=r"'optioned' has no option 'epsilom'; did you mean 'epsilon'\?; options: eps"
    ):
        optioned()[0](epsilom="1")
    matching("bare")(lambda views: None)
    with pytest.raises(MethodError, match="'bare' has no option 'x'; options: none"):
        REGISTERED["bare"](x=1)
