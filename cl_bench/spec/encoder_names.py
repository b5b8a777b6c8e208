"""The names of encoders: what a person types, taken apart, and the checkpoints of a folder. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from cl_bench.errors import EncoderError, nearest, no_file
from cl_bench.spec.pretraining import LIBRARIES, EncoderName, PretrainSpec
from cl_bench.spec.records import RANDOM_INIT

BUILT_IN: tuple[str, ...] = get_args(EncoderName)
PRETRAINED = "pretrained"
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
"""Suffixes of files of weights."""
OWN = "encoder.safetensors"
"""Name that a store gives the encoder of a run."""
KNOWN = (
    "timm:NAME, torchvision:NAME, FILE.py:FUNCTION, small_cnn or resnet18, each with @WEIGHTS if you like; "
    "a file of weights; a folder or pattern of them"
)
_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<function>\w*))?")


@dataclass(frozen=True)
class Named:
    """An encoder as it was asked for.

    Attributes:
        label: What it is called in tables.
        architecture: ``timm:NAME``, ``torchvision:NAME``, ``FILE.py:FUNCTION``, a built-in name, or nothing: what the
            file of weights says itself.
        weights: A file, ``pretrained``, or nothing: drawn from a seed.
    """

    label: str
    architecture: str
    weights: str = ""


def named(texts: Sequence[str], architecture: str = "") -> list[Named]:
    """List the encoders that a person asks for, in that order; those of folders and patterns by name.

    Args:
        texts: As ``KNOWN``.
        architecture: Of files of weights that stand alone; nothing where they are cl-bench's own.

    Raises:
        EncoderError: Nothing of that name; the message has the nearest right one.
    """
    if architecture:
        asked = one(architecture)
        if asked.weights or not asked.architecture:
            raise EncoderError(
                f"--encoder takes an architecture (timm:resnet50, FILE.py:FUNCTION), got {architecture!r}"
            )
        architecture = asked.architecture
    found: list[Named] = []
    for text in texts:
        if not text.strip():
            raise EncoderError(f"no encoder {text!r}; encoders: {KNOWN}")
        path = Path(text).expanduser()
        if path.is_dir():
            found += _of_files(_in_folder(path), path, architecture)
        elif any(mark in text for mark in "*?[") and not path.exists():
            files = sorted(p for p in Path().glob(text) if p.is_file()) if not path.is_absolute() else _globbed(path)
            if not files:
                raise EncoderError(f"no file matches {text!r}")
            found += _of_files(files, Path(), architecture)
        else:
            asked = one(text)
            found.append(asked if asked.architecture else Named(asked.label, architecture, asked.weights))
    return _told_apart(found)


def one(text: str) -> Named:
    """Take apart the name of one encoder, which is no folder and no pattern."""
    name, at, weights = text.rpartition("@")
    if not at or not (weights == PRETRAINED or weights.endswith(SUFFIXES)):
        name, weights = text, ""
    library, colon, model = name.partition(":")
    as_file = _FILE.fullmatch(name)
    if as_file:
        return Named(text, f"{as_file['file']}:{as_file['function'] or 'build'}", weights)
    if name in BUILT_IN or (library in LIBRARIES and colon and model):
        return Named(text, name, weights)
    if text.endswith(SUFFIXES) and (not weights or Path(text).exists() or ("/" in weights and ":" not in name)):
        return Named(text, "", text)
    if colon and "/" not in library and not Path(name).exists():
        raise EncoderError(f"no encoder {name!r}{nearest(library, LIBRARIES)}; encoders: {KNOWN}")
    known = (*BUILT_IN, *(p.name for p in _beside(Path(name)) if p.suffix in (".py", *SUFFIXES)))
    raise EncoderError(f"no encoder {name!r}{nearest(Path(name).name, known)}; encoders: {KNOWN}")


def architecture(text: str, here: Path) -> dict[str, str]:
    """Return the fields of an ``EncoderSpec`` that ``--encoder`` names.

    Args:
        text: ``timm:NAME``, ``torchvision:NAME``, ``FILE.py:FUNCTION`` or a built-in one.
        here: What a relative path starts from.

    Raises:
        EncoderError: It is none of these, it comes with weights, or the file is not there.
    """
    asked = one(text)
    if asked.weights or not asked.architecture:
        raise EncoderError(f"--encoder takes an architecture to pre-train, without weights, got {text!r}")
    place, _, function = asked.architecture.rpartition(":")
    if not place.endswith(".py"):
        return {"name": asked.architecture}
    file = (here / Path(place).expanduser()).resolve()
    if not file.is_file():
        raise EncoderError(f"--encoder {text}: {no_file(file, ['.py'])}")
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"name": f"{file.name}:{function}", "source": source, "file": str(file)}


def _in_folder(folder: Path) -> list[Path]:
    """List the checkpoints of a folder: of a store its encoders, else its files, else those of its folders."""
    runs = [*folder.glob(f"runs/*/{OWN}"), *folder.glob(f"*/{OWN}")]
    direct = [p for p in folder.iterdir() if p.suffix in SUFFIXES]
    found = runs or direct or [p for p in folder.rglob("*") if p.suffix in SUFFIXES]
    if not found:
        raise EncoderError(f"folder {folder} holds no file of weights ({', '.join(SUFFIXES)})")
    return sorted(p for p in found if p.is_file())


def _globbed(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    return sorted(p for p in root.glob(str(pattern.relative_to(root))) if p.is_file())


def _of_files(files: Sequence[Path], folder: Path, architecture: str) -> list[Named]:
    return [Named(_case(f) or str(f.relative_to(folder) if folder.name else f), architecture, str(f)) for f in files]


def _case(file: Path) -> str:
    """Return what a suite calls the encoder of a store, after its row; nothing for another file."""
    if file.name != OWN:
        return ""
    try:
        told = json.loads((file.parent / "spec.json").read_bytes())["payload"]
        found = PretrainSpec.model_validate({name: value for name, value in told.items() if name != "record"})
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    case = f"{found.objective.config}-s{found.seed}"
    return case if found.objective.config == RANDOM_INIT else f"{found.data.kind}-{found.views}-{found.method}-{case}"


def _told_apart(found: Sequence[Named]) -> list[Named]:
    """Give each a name of its own: the file of its weights, where two have the same."""
    times = Counter(one.label for one in found)
    return [one if times[one.label] == 1 or not one.weights else replace(one, label=one.weights) for one in found]


def _beside(path: Path) -> list[Path]:
    try:
        return [*path.parent.iterdir()]
    except OSError:
        return []
