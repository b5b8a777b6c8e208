"""The contract of a method, in seconds and without training: what the other suites take for granted of it.

``pytest suites/test_contract.py --method ./my_match.py`` is the first thing to run on a method of one's own.
"""

import pytest

from cl_bench.methods.contract import CHECKS, devices

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.type)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method(check, method, device):
    check(method, device)
