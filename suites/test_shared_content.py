"""Shared content of two disjoint views: the paper's explanation of its Table 3, tested by changing that alone.

Halves of one object share their meaning and halves of a crowd do not, which is why positives are confusing only in the
second case. Here multi-object scenes are drawn with digits of one class, of different classes, or of different classes
in one colour; places, sizes and backgrounds stay. If the explanation holds, encoders of disjoint views do worse where
the digits of a scene are of different classes than where they are of one class. The effect of one colour is
exploratory.

The method's overlapping twin on unchanged scenes must have learnt.
"""

import pytest


@pytest.mark.sweep(data="multi_object", views="disjoint", scenes="different_classes", schemes=("dense",))
class TestDifferentClasses:
    def test_model(self, case):
        case.check()

    @pytest.mark.claim("falls_behind", level="instance", against="one_class")
    def test_linear_evaluation(self, claim):
        claim.check()

    @pytest.mark.claim("falls_behind", level="dense", against="one_class")
    def test_detection(self, claim):
        claim.check()


@pytest.mark.sweep(data="multi_object", views="disjoint", scenes="different_classes_one_tint", schemes=("dense",))
class TestOneTint:
    def test_model(self, case):
        case.check()

    @pytest.mark.claim("falls_behind", level="instance", against="different_classes", exploratory=True)
    def test_linear_evaluation(self, claim):
        claim.check()

    @pytest.mark.claim("falls_behind", level="dense", against="different_classes", exploratory=True)
    def test_detection(self, claim):
        claim.check()


@pytest.mark.sweep(data="multi_object", views="disjoint", scenes="one_class", schemes=("dense",))
class TestOneClass:
    def test_model(self, case):
        case.check()
