"""What two disjoint views share: the paper's explanation of its Table 3, with nothing but that changed.

Halves of one object share meaning, halves of a crowd do not, and so "confusing positives" confuse only there. Here
multi-object scenes are drawn with digits of one class, or of different ones, or of different ones in one colour;
places, sizes and backgrounds stay. If the explanation holds, encoders of disjoint views do worse where the digits of a
scene are of different classes than where they are of one. What one colour does is exploratory.

The gate is asked of the method's overlapping twin on scenes as they are.
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
