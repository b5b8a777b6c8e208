"""Matching strategies: is index-wise matching as good as those that look for the true correspondence?

There is one test for each dense method that ``--method`` names in addition to dense_index. Both are trained over the
whole grid of objectives; a pair is one configuration of the grid, with the same seeds under both methods.
"""

import pytest


@pytest.mark.sweep(data="single_object", views="overlapping", schemes=("dense",))
class TestSingleObject:
    @pytest.mark.claim("no_worse_than", level="instance")
    def test_linear_evaluation(self, claim):
        claim.check()

    @pytest.mark.claim("no_worse_than", level="dense")
    def test_detection(self, claim):
        claim.check()


@pytest.mark.sweep(data="multi_object", views="overlapping", schemes=("dense",))
class TestMultiObject:
    @pytest.mark.claim("no_worse_than", level="instance")
    def test_linear_evaluation(self, claim):
        claim.check()

    @pytest.mark.claim("no_worse_than", level="dense")
    def test_detection(self, claim):
        claim.check()
