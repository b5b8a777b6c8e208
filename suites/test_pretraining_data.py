"""Pre-training data: does multi-object pre-training fall behind single-object pre-training in linear evaluation?

The paper's best STL-10 encoders reach 76 %, its best COCO encoders 68 %. A pair is one configuration of the objective,
the same method and seeds on both data: the claim is supported where the interval of the mean of single - multi lies
above 0, and refuted where it lies below. The single-object encoders must have learnt; the claim is that the others do
worse.
"""

import pytest


@pytest.mark.sweep(data="multi_object", views="overlapping")
@pytest.mark.claim("falls_behind", level="instance")
def test_linear_evaluation(claim):
    claim.check()
