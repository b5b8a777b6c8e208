"""Multi-object data (the paper's Table 2): do better aligned and more uniform features go with better performance?

For the dense scheme the paper claims it in detection alone: in linear evaluation it prints a tau of -.01 and calls that
irregular. There the claim is exploratory: it is judged and shown, but never fails.
"""

import pytest

pytestmark = pytest.mark.sweep(data="multi_object", views="overlapping")


def test_model(case):
    case.check()


@pytest.mark.claim("tau_negative", level="instance", exploratory=("dense",))
def test_tau_linear_evaluation(claim):
    claim.check()


@pytest.mark.claim("tau_negative", level="dense")
def test_tau_detection(claim):
    claim.check()
