"""Checks of values: at once on a CPU, gathered and read together on a GPU."""

import pytest
import torch
from pretended_gpu import CPU, GPU, pretended_gpu

from cl_bench.errors import Diverged
from cl_bench.losses.checks import Gathered, are_gathered, gathering, require

GOOD, BAD = torch.tensor(True), torch.tensor(False)


def test_a_check_is_made_at_once_and_says_what_was_found():
    require(GOOD, ValueError, "x must be small", lambda: pytest.fail("nothing was found"))
    with pytest.raises(ValueError, match=r"^x must be small, got 7$"):
        require(BAD, ValueError, "x must be small", lambda: ", got 7")
    with gathering(CPU), pytest.raises(Diverged, match=r"^x at step 3$"):
        require(BAD, Diverged, "x", " at step 3")
    assert not are_gathered()


def test_gathered_checks_are_read_together_with_one_wait():
    with pretended_gpu() as counts, gathering(GPU) as checks:
        good = GOOD.to(GPU)
        counts.clear()
        assert are_gathered()
        for k in range(3):
            require(good, ValueError, f"rule {k}", lambda: pytest.fail("gathered checks read no values"))
        assert not counts.synchronisations
        checks.read()
        assert counts.synchronisations.total() == 1
        checks.read()
        assert counts.synchronisations.total() == 1, "nothing is left to read"


def test_one_failure_among_many_is_found_and_the_first_rule_is_told():
    with pretended_gpu(), gathering(GPU) as checks:
        for k in range(5):
            require((BAD if k == 2 else GOOD).to(GPU), Diverged, "features", " at a step")
            require((GOOD if k else BAD).to(GPU), ValueError, "follows")
        with pytest.raises(Diverged, match=r"^features by step 5$"):
            checks.read(" by step 5")
        require(GOOD.to(GPU), Diverged, "features")
        checks.read()


def test_an_error_that_follows_is_told_as_the_check_that_failed_before_it():
    with (
        pretended_gpu(),
        pytest.raises(KeyError, match="features; an error followed") as caught,
        gathering(GPU, Gathered(lambda error: KeyError(str(error)))),
    ):
        require(BAD.to(GPU), Diverged, "features")
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    with pretended_gpu(), pytest.raises(ZeroDivisionError), gathering(GPU):
        require(GOOD.to(GPU), Diverged, "features")
        raise ZeroDivisionError
    assert not are_gathered()
