"""Loading weights of a file into a network: all of them, whatever their prefix, or a refusal in one line."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.errors import EncoderError, first_line, listed, no_file
from cl_bench.spec.encoder_names import SUFFIXES

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "backbone", "encoder")
"""Keys that trainers keep the weights under, beside the optimiser's state and the like."""
PREFIXES = (
    "module",
    "_orig_mod",
    "model",
    "net",
    "network",
    "backbone",
    "encoder",
    "encoder_q",
    "base_encoder",
    "student",
)
"""First parts of weights' names that wrappers add."""
HEADS = re.compile(
    r"^(fc|head|heads|classifier|last_linear|projector|projection|projection_head|predictor|prototypes)\b"
)
"""Names of what stands behind the features: a file may have more of them than the network, or others."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name, wrappers taken off.

    Raises:
        EncoderError: No such file, or one that holds anything but weights.
    """
    if not file.is_file():
        raise EncoderError(no_file(file, SUFFIXES))
    content: Any
    try:
        if file.suffix == ".safetensors":
            import safetensors.torch

            content = safetensors.torch.load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles that torch does not like, and then refuses
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|function|type) ([\w.]+)", str(error))
        held = f" ({found[1]})" if found else ""
        told = f"holds more than weights{held}: save network.state_dict(), not the network"
        raise EncoderError(f"{file}: {told}") from None
    except Exception as error:  # torch, zipfile and safetensors each have their own
        raise EncoderError(f"{file}: not a file of weights: {first_line(error)}") from None
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        what = f"keys {listed(map(str, content), 3)}" if isinstance(content, Mapping) else type(content).__name__
        raise EncoderError(f"{file}: holds no weights ({what or 'nothing'})")
    return tensors


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], file: Path, behind: Iterable[str] = ()) -> str:
    """Load weights into a network, each of them proved to be there; the prefix that was taken off is returned.

    Args:
        network: What they are for.
        tensors: By name.
        file: Where they are from, for a message.
        behind: First parts of the names of what stands behind the features in this network, which a file may lack.

    Raises:
        EncoderError: Weights that the network lacks or has too many, or of another shape; the message names some.
    """
    wanted = network.state_dict()
    prefix = max(_prefixes(tensors), key=lambda p: sum(p + name in tensors for name in wanted))
    held = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    ours = re.compile(rf"^({'|'.join(map(re.escape, behind)) or '(?!)'})\b")
    missing = [n for n in wanted if n not in held and not ours.match(n) and not n.endswith("num_batches_tracked")]
    surplus = [n for n in held if n not in wanted and not HEADS.match(n) and not n.endswith("num_batches_tracked")]
    shared = [n for n in wanted if n in held and not (ours.match(n) and held[n].shape != wanted[n].shape)]
    shapes = [
        f"{n} is {tuple(held[n].shape)}, not {tuple(wanted[n].shape)}"
        for n in shared
        if held[n].shape != wanted[n].shape
    ]
    faults = [f"lacks {listed(missing, 3)}"] if missing else []
    faults += [f"has {listed(surplus, 3)}, which the encoder has not"] if surplus else []
    faults += [listed(shapes, 3)] if shapes else []
    if faults:
        raise EncoderError(f"{file}: does not fit: {'; '.join(faults)}")
    network.load_state_dict({name: held[name] for name in shared}, strict=False)
    return prefix


def content_hash(network: nn.Module) -> str:
    """Hash every tensor of a network: name, type, shape and bytes (sha256)."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _prefixes(names: Iterable[str]) -> list[str]:
    """List the prefixes that may have been added to names, the empty one first."""
    found = {""}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if parts[depth - 1] not in PREFIXES:
                break
            found.add(".".join(parts[:depth]) + ".")
    return sorted(found)
