"""The contract of a method, which the other suites assume: checked in seconds, without training.

``pytest suites/test_contract.py --method ./my_match.py`` is the first command to run on a new method.
"""

import pytest

from cl_bench.methods.contract import CHECKS, devices

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.type)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method(check, method, device):
    check(method, device)
