"""Every switch of torch is set, put back and told of."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from cl_bench.compute.numerics import provenance, settled, switches

CPU = torch.device("cpu")
MESS: dict[str, object] = {
    "default_dtype": torch.float64,
    "grad": False,
    "threads": 3,
    "deterministic": False,
    "matmul_precision": "medium",
    "cuda.matmul.fp32_precision": "tf32",
    "cuda.matmul.allow_fp16_reduced_precision_reduction": False,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": False,
    "cudnn.conv.fp32_precision": "ieee",
    "cudnn.rnn.fp32_precision": "ieee",
    "cudnn.enabled": False,
    "cudnn.benchmark": True,
    "cudnn.deterministic": True,
    "mkldnn.matmul.fp32_precision": "bf16",
    "mkldnn.conv.fp32_precision": "bf16",
    "mkldnn.rnn.fp32_precision": "bf16",
    "mkldnn.enabled": False,
}
"""Of each switch a value that it is not set to."""


def state() -> dict[str, object]:
    return {switch.name: switch.get() for switch in switches(CPU)}


def test_every_switch_has_a_mess_to_be_taken_out_of() -> None:
    assert {s.name: s.value for s in switches(CPU)}.keys() == MESS.keys()
    assert all(MESS[s.name] != s.value for s in switches(CPU))


@pytest.mark.parametrize("name", MESS)
def test_what_is_left_behind_is_set_right_and_put_back(name: str) -> None:
    before = state()
    with settled(CPU):
        right = state()
        (switch,) = (s for s in switches(CPU) if s.name == name)
        switch.set(MESS[name])
        messed = state()
        assert messed != right
        with settled(CPU):
            assert state() == right == {s.name: s.value for s in switches(CPU)}
        assert state() == messed
    assert state() == before


@pytest.mark.parametrize(
    "mess",
    [
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
        lambda: torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision="bf16"),
    ],
    ids=["matmul precision", "cuda tf32", "cudnn tf32", "all", "mkldnn"],
)
def test_so_is_what_is_set_by_another_name(mess: Callable[[], object]) -> None:
    torch.manual_seed(0)
    a = torch.randn(256, 256)
    before = state()
    with settled(CPU):
        right, product = state(), a @ a
    generic = torch.backends.fp32_precision
    try:
        with settled(CPU):
            mess()
            with settled(CPU):
                assert state() == right
                assert torch.equal(a @ a, product)
    finally:
        torch.backends.fp32_precision = generic
        torch.backends.mkldnn.set_flags()
    assert state() == before


def test_it_is_put_back_after_an_error() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), settled(CPU):
        torch.set_num_threads(3)
        raise ZeroDivisionError
    assert state() == before


def test_a_gpu_takes_as_many_threads_as_torch_by_itself_and_any_algorithm() -> None:
    found = {s.name: s.value for s in switches(torch.device("cuda"))}
    here = {s.name: s.value for s in switches(CPU)}
    assert {name for name in here if here[name] != found[name]} <= {"threads", "deterministic"}
    assert found["threads"] >= 1 and found["deterministic"] is False


def test_the_provenance_is_plain_and_names_every_switch() -> None:
    with settled(CPU):
        told = provenance(CPU)
    assert json.loads(json.dumps(told)) == told
    assert MESS.keys() <= told.keys()
    assert (told["default_dtype"], told["threads"], told["device"]) == ("float32", 1, "cpu")
    assert told["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    with settled(CPU):
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # torch then has no word for the precision
        assert provenance(CPU)["matmul_precision"] == "mixed"
