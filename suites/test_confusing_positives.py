"""Confusing positives (the paper's Table 3): two views that share no pixel. Does the correlation break?

Table 3 is about dense schemes. On single-object data the two halves still show one object, and tau stays negative. On
multi-object data they show different objects, detection falls to the level of random initialisation, and tau is no
longer negative: the table prints +.03. There are two claims on this, since a row may support either: tau is above 0,
and tau is close to 0.

The prediction here is that encoders do not learn, so learning is required of the twin instead: the same method on the
same data with overlapping views. If the twin did not learn either, the verdict is INCONCLUSIVE.
"""

import pytest


@pytest.mark.sweep(data="single_object", views="disjoint", schemes=("dense",))
class TestSingleObject:
    def test_model(self, case):
        case.check()

    @pytest.mark.claim("tau_negative", level="instance")
    def test_tau_linear_evaluation(self, claim):
        claim.check()

    @pytest.mark.claim("tau_negative", level="dense")
    def test_tau_detection(self, claim):
        claim.check()


@pytest.mark.sweep(data="multi_object", views="disjoint", schemes=("dense",))
class TestMultiObject:
    def test_model(self, case):
        case.check()

    @pytest.mark.claim("at_random_level", level="dense")
    def test_detection_at_random_level(self, claim):
        claim.check()

    @pytest.mark.claim("tau_not_negative", level="dense")
    def test_tau_detection_not_negative(self, claim):
        claim.check()

    @pytest.mark.claim("no_correlation", level="dense")
    def test_no_correlation_with_detection(self, claim):
        claim.check()
