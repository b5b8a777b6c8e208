"""Encoders of a store, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cl_bench.compute.devices import torch_device
from cl_bench.compute.loading import existing_store, stored_pretrainings
from cl_bench.compute.pretraining import kept_encoder
from cl_bench.compute.record import read_status
from cl_bench.errors import SpecError, nearest
from cl_bench.notebook.checks import expect
from cl_bench.spec.records import Record

if TYPE_CHECKING:
    from cl_bench.encoders import Encoder


KEY_LENGTH = 8
"""Characters of a key that tell an encoder from another, at least."""


def load_encoder(
    store: str | Path,
    case: str | Record,
    *,
    data: str | None = None,
    views: str | None = None,
    device: str = "cpu",
) -> Encoder:
    """Load an encoder of a store, frozen: in evaluation mode, and without gradients.

    Args:
        store: Folder of the results.
        case: Its case id, as ``dense_index-info_nce-t0.1-s0``; its key, or the first eight or more characters of it;
            or its record.
        data: Pre-training data, as ``Record.data``, where several rows have the case.
        views: ``overlapping`` or ``disjoint``, likewise.
        device: Where to put it.

    Returns:
        The encoder: normalised images of shape (B, 3, H, W) to feature maps of shape (B, channels, h, w).

    Raises:
        SpecError: The store has no such encoder, or several, or no longer its weights; the message says which.

    Example:
        >>> import cl_bench, torch
        >>> encoder = cl_bench.load_encoder("results", "dense_index-info_nce-t0.1-s0")
        >>> encoder(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 128, 4, 4])
    """
    expect("store", store, (str, Path), "a folder")
    expect("case", case, (str, Record), "a case id, a key or a record")
    held = existing_store(store)
    name = case.key if isinstance(case, Record) else case
    stored = stored_pretrainings(held)
    found = [
        spec
        for spec in stored
        if (name == spec.case or (len(name) >= KEY_LENGTH and spec.key.startswith(name)))
        and data in (None, spec.data.label)
        and views in (None, spec.views)
    ]
    asked = ", ".join([repr(name), *(f"{k}={v!r}" for k, v in {"data": data, "views": views}.items() if v)])
    if not found:
        known = sorted({spec.case for spec in stored})
        raise SpecError(f"store {str(store)!r} has no encoder {asked}{nearest(name, known)}")
    if len(found) > 1:
        told = "; ".join(f"{spec.key[:KEY_LENGTH]} ({spec.data.label}, {spec.views})" for spec in found)
        raise SpecError(f"store {str(store)!r} has {len(found)} encoders {asked}; give data=, views= or a key: {told}")
    kept = held.run(found[0].key)
    status = read_status(kept)
    if status is None or status["status"] != "complete":
        why = "its pre-training has not ended" if status is None else status["detail"]
        raise SpecError(f"store {str(store)!r} has no weights of {asked}: {why}")
    encoder = kept_encoder(found[0], kept, status["encoder_sha256"])
    if encoder is None:
        raise SpecError(f"store {str(store)!r} has no weights of {asked}: encoder.safetensors is not there")
    return encoder.requires_grad_(False).to(torch_device(device))
