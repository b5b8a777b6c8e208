"""Encoders to pre-train: the built-in ones, and any network that a C4 detector can cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cl_bench.encoders.build import build
from cl_bench.encoders.built_in import Encoder, build_encoder, reflect
from cl_bench.encoders.frozen import frozen
from cl_bench.errors import Diverged, EncoderError
from cl_bench.spec import EncoderSpec
from cl_bench.spec.encoder_names import BUILT_IN, Named


def trainable(spec: EncoderSpec, view: int, seed: int = 0) -> Encoder:
    """Build an untrained encoder.

    Args:
        spec: Which.
        view: Height and width of a view, in pixels; images are enlarged for networks that make one cell of it.
        seed: Its weights are drawn from, where it is not built in; else they come from torch's global generator.

    Raises:
        EncoderError: It is not there, cannot be built, gives no features, or cannot be cut for detection, which a suite
            evaluates every encoder by; or its file was edited.
    """
    if spec.name in BUILT_IN:
        return build_encoder(spec.name, spec.padding)
    if spec.file:
        file = Path(spec.file)
        if not file.is_file():
            raise EncoderError(f"encoder {spec.name}: no file {file}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != spec.source:
            raise EncoderError(f"encoder {spec.name}: {file} was edited since this run began; run it again")
    function = spec.name.rpartition(":")[2]
    asked = Named(spec.name, f"{spec.file}:{function}" if spec.file else spec.name)
    try:
        found = frozen(build(asked, seed).module, spec.name, view)
    except Diverged as error:
        raise EncoderError(f"{spec.name}: {error}") from None
    if found.parts is None:
        told = "a suite evaluates every encoder by detection; cl-bench measure takes any network"
        raise EncoderError(f"{spec.name} cannot be cut in two for detection, it {found.shape.uncut}: {told}")
    if spec.padding == "reflect":
        reflect(found.parts)
    return found.parts
