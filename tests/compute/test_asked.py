"""Options with values of their own form: times, and numbers of seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny

from cl_bench.compute.asked import duration_seconds, seed_settings
from cl_bench.errors import SpecError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1h0m5s", 3605), ("0h1s", 1), ("100h", 360_000)],
)
def test_a_time(text: str, seconds: float) -> None:
    assert duration_seconds("--budget", text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "h",
        "0s",
        "0h0m",
        "-1h",
        "1.5h",
        "30m1h",
        "2 h",
        "2H",
        "1h 30m",
        "1d",
        "\u0661s",
        "soon",
        "9" * 5000 + "h",
    ],
)
def test_no_time(text: str) -> None:
    with pytest.raises(SpecError, match=r"^--budget takes hours, minutes and seconds, as 90s, 45m, 2h or 1h30m, got"):
        duration_seconds("--budget", text)


@pytest.mark.parametrize(
    ("text", "seeds", "first"),
    [("3", 3, 0), ("3:8", 5, 3), ("1000", 1000, 0), ("2147482648:2147483648", 1000, 2**31 - 1000)],
)
def test_seeds(tmp_path: Path, text: str, seeds: int, first: int) -> None:
    settings = dict(s.split("=") for s in seed_settings(text))
    profile = tiny(tmp_path, **{name: int(value) for name, value in settings.items()})
    assert (profile.seeds, profile.first_seed) == (seeds, first)


@pytest.mark.parametrize(
    "text", ["1001", f"{10**22}", "0:10000000000", f"{10**22}:{10**22 + 1}", "2147483648:2147483649"]
)
def test_more_seeds_than_anybody_wants(text: str) -> None:
    with pytest.raises(
        SpecError, match=rf"^--seeds takes at most 1,000 seeds, none of 2,147,483,648 or more, got '{text}'$"
    ):
        seed_settings(text)


@pytest.mark.parametrize("name", ["seeds", "max_seeds", "random_inits", "first_seed"])
def test_a_profile_is_held_to_the_same(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=rf"{name}: Input should be less than or equal to .* got 10{'0' * 21}"):
        tiny(tmp_path, **{name: 10**22})
