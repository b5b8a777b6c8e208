"""Texts that errors are made of."""

from __future__ import annotations

from cl_bench.errors import listed


def test_a_list_of_names_is_cut_after_five() -> None:
    names = list("abcdefg")
    assert (listed(names[:5]), listed(names)) == ("a, b, c, d, e", "a, b, c, d, e and 2 more")
    assert listed(map(str, range(2000)), 1) == "0 and 1,999 more"
