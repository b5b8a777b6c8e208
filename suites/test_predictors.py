"""Predictors of performance: DSE's counter-claim, and the contract that every predictor must satisfy.

Dai et al. (NeurIPS 2025, arXiv:2510.17299) report that RankMe, alpha-ReQ and LiDAR go *against* dense performance:
encoders that these count as better do worse. They compare checkpoints along training, on segmentation; here the
encoders differ in their objective, and the task is detection. The claims are therefore exploratory: judged and shown,
but never failing. They train no encoders that the other suites do not train.

``pytest suites/test_predictors.py -k contract --predictor ./mine.py`` is the first command to run on a new predictor.
"""

import pytest

from cl_bench.predictors.contract import CHECKS


@pytest.mark.contract
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, predictor):
    check(predictor)


class Against:
    @pytest.mark.claim("predictor_against", level="dense", predictor="rankme@dense", exploratory=True)
    def test_rankme_goes_against_detection(self, claim):
        claim.check()

    @pytest.mark.claim("predictor_against", level="dense", predictor="alpha_req@dense", exploratory=True)
    def test_alpha_req_goes_against_detection(self, claim):
        claim.check()

    @pytest.mark.claim("predictor_against", level="dense", predictor="lidar@dense", exploratory=True)
    def test_lidar_goes_against_detection(self, claim):
        claim.check()


@pytest.mark.sweep(data="single_object", views="overlapping")
class TestSingleObject(Against):
    pass


@pytest.mark.sweep(data="multi_object", views="overlapping")
class TestMultiObject(Against):
    pass
