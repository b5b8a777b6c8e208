"""A pretended GPU: CPU tensors that say they are on ``cuda:0``, so that code for a GPU is tested where there is none.

Within ``pretended_gpu`` every operation that reaches torch's dispatcher, of the backward pass too, is computed on the
CPU and checked first: what CUDA would refuse raises ``DeviceError``. That is tensors of two devices in one operation, a
CPU generator for a tensor of the GPU, and a kernel that CUDA lacks. Operations and synchronisations are counted.

To torch's C++ code the tensors are on the device ``meta``, which every build of torch has and which differs from the
CPU; only their Python attributes say ``cuda:0``. What it cannot show: memory, streams, times, the order of sums, and
kernels that differ in their results. ``Tensor.cuda()`` and a device without an index need a driver: ``to("cuda:0")``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
import torchvision  # noqa: F401 - its operators
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
ROOT = Path(__file__).resolve().parent.parent
OWN = tuple(f"{ROOT / room}{os.sep}" for room in ("cl_bench", "methods", "tests"))

WAITING = {
    aten._local_scalar_dense,  # item, tolist, bool, int, float
    aten._linalg_check_errors,
    aten._linalg_eigh,
    aten._linalg_svd,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.unique_dim_consecutive,
    torch.ops.torchvision.nms,
}
"""Operations after which the CPU waits: it needs a value, or the size of the result."""
NO_KERNEL = {
    aten._has_same_storage_numel,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.is_same_size,
    aten.new_empty,
    aten.new_empty_strided,
}
"""Operations, besides views, that only allocate memory or look at shapes."""
SCALAR_FROM_CPU = {aten.fill_, aten.masked_fill, aten.masked_fill_, aten.where}
"""Operations, besides element-wise ones, that take a 0-dimensional CPU tensor for a number."""


class DeviceError(RuntimeError):
    """Error for a call that CUDA would refuse."""


@dataclass
class Counts:
    """Counts of what reached the device; ``clear`` starts them anew.

    Attributes:
        operations: Kernels launched, one for each operation of the dispatcher, by its name.
        synchronisations: Times the CPU waited for the device, by operation and line.
    """

    operations: Counter[str] = field(default_factory=Counter)
    synchronisations: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Forget what was counted so far."""
        self.operations.clear()
        self.synchronisations.clear()


class OnGPU(Tensor):
    """A tensor of the pretended GPU, whose values are those of ``held``, a CPU tensor."""

    held: Tensor
    is_cuda: ClassVar[property] = property(lambda self: True)  # type: ignore[misc]
    is_cpu: ClassVar[property] = property(lambda self: False)  # type: ignore[misc]
    is_meta: ClassVar[property] = property(lambda self: False)  # type: ignore[misc]
    device: ClassVar[property] = property(lambda self: GPU)  # type: ignore[misc]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        tensor: OnGPU = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise DeviceError(f"{func} on a tensor of the pretended GPU, outside of pretended_gpu()")

    def tolist(self) -> Any:
        """Copy to the CPU first, as torch does for CUDA; its own code refuses subclasses."""
        return self.to(CPU).tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse, as torch does for CUDA."""
        raise DeviceError(f"numpy() of a tensor of the GPU at {_place()}")

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnGPU{tuple(self.shape)}"


class _Device(TorchDispatchMode):
    """The device: computes, checks and counts each operation."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet is aten.is_pinned:
            return _is_pinned(args[0])
        if packet is aten._pin_memory:
            return _pinned(args[0])
        if kwargs.get("pin_memory"):
            return _pinned(func(*args, **{**kwargs, "pin_memory": False}))
        if packet is aten.scalar_tensor:  # a number in an operation, which stays on the CPU where others are on CUDA
            return func(*args, **{**kwargs, "device": CPU})
        given: list[Any] = []
        on_cpu = _mapped((args, kwargs), lambda x: (given.append(x), x.held if isinstance(x, OnGPU) else x)[1])
        tensors = [x for x in given if isinstance(x, Tensor)]
        mine = {id(x.held): x for x in tensors if isinstance(x, OnGPU)}
        to = kwargs.get("device")
        on_gpu = bool(mine) if to is None else to.type != "cpu"
        if mine or on_gpu:
            if packet in (aten._to_copy, aten.copy_):
                self._copy(packet, args, kwargs, on_gpu)
            else:
                if any(isinstance(x, torch.Generator) for x in given):
                    raise DeviceError(f"{packet.__name__} draws on the GPU from a generator of the CPU at {_place()}")
                self._check(func, args, kwargs, tensors, bool(mine))
            if packet not in NO_KERNEL and not func.is_view:
                self.counts.operations[packet.__name__] += 1
        args, kwargs = on_cpu
        if to is not None:
            kwargs["device"] = CPU

        def out(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if (known := mine.get(id(x))) is None:
                return OnGPU(x) if on_gpu else x
            if x.shape != known.shape:
                raise NotImplementedError(f"{func} changes the shape of a tensor in place")
            return known

        return _mapped(func(*args, **kwargs), out)

    def _copy(self, packet: Any, args: Any, kwargs: Any, on_gpu: bool) -> None:
        """Count a copy from one device to the other, which waits unless it is from pinned memory and may overtake."""
        source = args[0] if packet is aten._to_copy else args[1]
        from_gpu = isinstance(source, OnGPU)
        if packet is aten.copy_:
            on_gpu = isinstance(args[0], OnGPU)
            kwargs = {"non_blocking": args[2]} if len(args) > 2 else kwargs
        if from_gpu and not on_gpu:
            self._wait("copy to the CPU")
        elif on_gpu and not from_gpu and not (kwargs.get("non_blocking") and _is_pinned(source)):
            self._wait("copy from unpinned memory")

    def _check(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], mixed: bool) -> None:
        packet = func.overloadpacket
        if packet is aten._upsample_bilinear2d_aa and tensors[0].dtype == torch.uint8:
            raise DeviceError(f"CUDA has no antialiased resizing of uint8 at {_place()}")
        if packet in WAITING or (packet is aten.repeat_interleave and kwargs.get("output_size") is None):
            self._wait(packet.__name__)
        others = [x for x in tensors if not isinstance(x, OnGPU)] if mixed else []
        if packet in (aten.index, aten.index_put, aten.index_put_):
            others = self._index(args, others)
        scalar = torch.Tag.pointwise in func.tags or packet in SCALAR_FROM_CPU
        if wrong := [tuple(x.shape) for x in others if x.ndim or not scalar]:
            raise DeviceError(f"{packet.__name__} of cuda:0 and cpu {wrong} at {_place()}")

    def _index(self, args: Any, others: list[Tensor]) -> list[Tensor]:
        """Count what indexing waits for, and return those of the CPU's tensors that it may not use."""
        x, indices, *rest = args
        value = rest[0] if rest else None
        number = value is not None and value.numel() == 1 and not isinstance(value, OnGPU)
        given = [i for i in indices if i is not None]
        for i in given:
            if i.dtype == torch.bool and not number:
                self._wait("index by a mask")
            elif isinstance(x, OnGPU) and not isinstance(i, OnGPU):
                self._wait("index by a CPU tensor")
        free = [*given, value] if isinstance(x, OnGPU) and number else given if isinstance(x, OnGPU) else []
        return [t for t in others if not any(t is f for f in free)]

    def _wait(self, what: str) -> None:
        self.counts.synchronisations[f"{what} at {_place()}"] += 1


def _mapped(x: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to each argument or result; torch's own tree functions take ten times as long."""
    if isinstance(x, (list, tuple)):
        return type(x)([_mapped(part, change) for part in x])
    if isinstance(x, dict):
        return {name: _mapped(part, change) for name, part in x.items()}
    return change(x)


def _pinned(x: Tensor) -> Tensor:
    if isinstance(x, OnGPU):
        raise DeviceError(f"pin_memory of a tensor of the GPU at {_place()}")
    copy = x.clone()
    copy.is_pretended_pinned = True  # type: ignore[attr-defined]  # kept with the tensor
    return copy


def _is_pinned(x: Tensor) -> bool:
    return getattr(x, "is_pretended_pinned", False)


def _place() -> str:
    """Return the innermost line of this project, and the line of a library that it reached the device through."""
    frame, through = sys._getframe(1), ""
    while frame := frame.f_back:  # type: ignore[assignment]
        file = frame.f_code.co_filename
        if file == __file__:
            continue
        if file.startswith(OWN):
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}{through}"
        if not through and "/torchvision/" in file:
            through = f" through torchvision/{Path(file).name}:{frame.f_lineno}"
    return f"a line of a library{through}"


@contextmanager
def pretended_gpu(memory: int = 2**30) -> Iterator[Counts]:
    """Pretend within the context, in this thread and those that start in it, that there is a GPU, ``cuda:0``.

    ``memory``: bytes that it has, all free.
    """
    counts = Counts()
    run = threading.Thread.run
    if torch.cuda.is_available():
        torch.cuda.init()  # torch counts the GPU as initialised from here on

    def in_mode(thread: threading.Thread) -> None:
        with _Device(counts):
            run(thread)

    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) then passes through the dispatcher
    cuda = mock.patch.multiple(
        torch.cuda,
        _lazy_init=lambda: None,
        device_count=lambda: 1,
        get_device_capability=lambda device=None: (7, 5),
        mem_get_info=lambda device=None: (memory, memory),
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: None,
        synchronize=lambda device=None: None,
    )
    try:
        # The engine would run the backward pass in a thread of its own, which is not in the mode.
        with (
            cuda,
            mock.patch.object(threading.Thread, "run", in_mode),
            torch.autograd.set_multithreading_enabled(False),
            _Device(counts),
        ):
            yield counts
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
