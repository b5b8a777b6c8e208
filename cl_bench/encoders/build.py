"""Networks by name: timm's, torchvision's, those of a file, the built-in ones; and their weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from cl_bench.encoders.built_in import build_encoder
from cl_bench.encoders.weights import load_weights, read_weights
from cl_bench.errors import EncoderError, first_line, line_in, nearest, no_file
from cl_bench.spec import EncoderSpec, Padding
from cl_bench.spec.encoder_names import BUILT_IN, OWN, PRETRAINED, Named

TORCHVISION_HEADS = ("fc", "classifier", "head", "heads", "AuxLogits", "aux1", "aux2")
"""Names of the layers behind the features in torchvision's networks."""
ANSWER = 5.0
"""Seconds that a hub of weights has to answer in."""


@dataclass(frozen=True)
class Network:
    """A network with its weights.

    Attributes:
        module: In eval mode.
        architecture: What computes it, but for its weights: a name, with the sha256 of the source where it is a file.
        origin: Where its weights are from, in words.
    """

    module: nn.Module
    architecture: str
    origin: str


def build(asked: Named, seed: int = 0, padding: Padding = "zeros") -> Network:
    """Build the network that somebody asked for; the global generator stays as it was.

    Args:
        asked: Its architecture, and where its weights are from.
        seed: Weights that are given nowhere are drawn from.
        padding: Of built-in encoders whose checkpoint does not say.

    Raises:
        EncoderError: It is not there, cannot be built, or its weights do not fit; one line that names it.
    """
    name = asked.architecture
    tensors = read_weights(Path(asked.weights).expanduser()) if asked.weights not in ("", PRETRAINED) else None
    trained = None if name else _own_network(Path(asked.weights).expanduser())
    if not name and trained is None:
        name, padding = _own_architecture(Path(asked.weights).expanduser(), tensors or {}, padding)
    library, _, model = name.partition(":")
    behind: tuple[str, ...] = ()
    module: nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        architecture = name
        if trained is not None:
            name, module = trained
            architecture = f"suite/{name}"
        elif name in BUILT_IN:
            if asked.weights == PRETRAINED:
                raise EncoderError(f"{asked.label}: no weights of {name} are published: give a file")
            module = build_encoder(name, padding)
            architecture = f"{name}/{padding}"
        elif library == "timm":
            module = _of_timm(model, asked, seed)
        elif library == "torchvision":
            module, behind = _of_torchvision(model, asked), TORCHVISION_HEADS
        else:
            if asked.weights == PRETRAINED:
                raise EncoderError(f"{asked.label}: @{PRETRAINED} takes timm: or torchvision:; give a file")
            module, architecture = _of_file(name)
    origin = f"random weights, seed {seed}" if not asked.weights else asked.weights
    if architecture.startswith("file:") and not asked.weights:
        origin = "weights as its file gives them"
    if tensors is not None:
        try:
            prefix = load_weights(module, tensors, Path(asked.weights), behind)
        except EncoderError as error:
            raise EncoderError(f"{error} (architecture {name})") from None
        origin += f", without {prefix!r}" if prefix else ""
    return Network(module.eval(), architecture, origin)


def _own_network(file: Path) -> tuple[str, nn.Module] | None:
    """Build the network that a suite pre-trained instead of a built-in encoder; None for any other file."""
    from cl_bench.encoders.trainable import trainable

    try:
        spec = json.loads((file.parent / "spec.json").read_bytes())["payload"]
        encoder, view = EncoderSpec.model_validate(spec["encoder"]), int(spec["augment"]["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if file.name != OWN or encoder.name in BUILT_IN:
        return None
    return f"{encoder.source}:{encoder.name}/{encoder.padding}", trainable(encoder, view)


def _own_architecture(file: Path, tensors: dict[str, Any], padding: Padding) -> tuple[str, Padding]:
    """Find the built-in encoder that a file of weights is of: by what its run says, or by the weights' names."""
    beside = file.parent / "spec.json"
    if file.name == OWN and beside.is_file():
        try:
            spec = json.loads(beside.read_bytes())["payload"]["encoder"]
            if spec["name"] in BUILT_IN and spec["padding"] in ("zeros", "reflect"):
                return spec["name"], spec["padding"]
        except (ValueError, KeyError, TypeError):
            pass
    for name in BUILT_IN:
        with torch.random.fork_rng(devices=[]):
            wanted = build_encoder(name, padding).state_dict()
        if wanted.keys() == tensors.keys():
            return name, padding
    raise EncoderError(
        f"{file}: the file does not say of which architecture its weights are; name it: --encoder timm:NAME, "
        "torchvision:NAME or FILE.py:FUNCTION"
    )


def _of_timm(model: str, asked: Named, seed: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise EncoderError(f"{asked.label}: timm is not installed; pip install 'cl-bench[timm]'") from None
    if not timm.is_model(model):
        raise EncoderError(f"no model {model!r} in timm {timm.__version__}{nearest(model, timm.list_models())}")
    options: dict[str, Any] = {"pretrained": asked.weights == PRETRAINED, "num_classes": 0}

    def create(**more: Any) -> nn.Module:
        torch.manual_seed(seed)
        made: nn.Module = timm.create_model(model, **options, **more)
        return made

    with _hub_or_cache() if options["pretrained"] else nullcontext("") as unreachable:
        try:
            try:
                return create(dynamic_img_size=True)  # transformers that take images of any size
            except TypeError:
                return create()
        except Exception as error:  # a download fails in many ways
            missing = unreachable and isinstance(error, OSError)
            why = f"{unreachable}; give a file, timm:{model}@FILE" if missing else first_line(error)
            raise EncoderError(f"{asked.label}: timm could not make it: {why}") from None


@contextmanager
def _hub_or_cache() -> Iterator[str]:
    """Take from the cache alone what Hugging Face's hub has, if that does not answer, without a minute of retries.

    Yields:
        Why nothing else can be had; empty where the hub answers.
    """
    from huggingface_hub import constants, get_session

    offline, unreachable = constants.HF_HUB_OFFLINE, ""
    try:
        if not offline:
            get_session().head(constants.ENDPOINT, timeout=ANSWER)
    except Exception:  # each version has errors of its own
        unreachable = f"its weights are not on this machine, and {constants.ENDPOINT} does not answer"
    constants.HF_HUB_OFFLINE = offline or bool(unreachable)
    try:
        yield unreachable
    finally:
        constants.HF_HUB_OFFLINE = offline


def _of_torchvision(model: str, asked: Named) -> nn.Module:
    import torchvision

    known = list(torchvision.models.list_models(torchvision.models))
    if model not in known:
        raise EncoderError(f"no model {model!r} in torchvision {torchvision.__version__}{nearest(model, known)}")
    try:
        made: nn.Module = torchvision.models.get_model(
            model, weights="DEFAULT" if asked.weights == PRETRAINED else None
        )
    except Exception as error:  # a download fails in many ways
        raise EncoderError(f"{asked.label}: torchvision could not make it: {first_line(error)}") from None
    return made


def _of_file(name: str) -> tuple[nn.Module, str]:
    """Call a function of a file; return its network and a name that has the source's hash, not its place."""
    place, _, function = name.rpartition(":")
    file = Path(place).expanduser().absolute()
    if not file.is_file():
        raise EncoderError(no_file(Path(place), [".py"]))
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    module = _imported(file, place, source)
    made = getattr(module, function, None)
    if not callable(made):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        have = f"; it has {', '.join(sorted(own))}" if own else ""
        raise EncoderError(f"{place} has no function {function!r}{nearest(function, own)}{have}")
    built = _or_line(lambda: made(), f"{place}:{function}", str(file))
    if not isinstance(built, nn.Module):
        raise EncoderError(f"{place}:{function} must return a torch.nn.Module, got {type(built).__name__}")
    return built, f"file:{source}:{function}"


def _imported(file: Path, place: str, source: str) -> ModuleType:
    name = f"cl_bench_encoder_{hashlib.sha256(f'{file}:{source}'.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        _or_line(lambda: loader.exec_module(module), place, str(file))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _or_line(what: Callable[[], Any], name: str, file: str) -> Any:
    """Run a user's code; whatever it raises becomes one line, with the line of the file."""
    try:
        return what()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit too
        line = line_in(error, file)
        raise EncoderError(f"{name}{f', line {line}' if line else ''}: {first_line(error)}") from None
