"""Definition of a method: a matching strategy (a function), or a subclass of ``Method`` if it is more than that."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cl_bench.encoders import Encoder, ProjectionHead
from cl_bench.errors import Diverged, MethodError, NameTakenError, first_line, nearest
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import DenseViews, LossTerms, Match
from cl_bench.spec import AlignUniform, EncoderSpec, InfoNCE
from cl_bench.spec.records import RANDOM_INIT, Level

Strategy = Callable[..., Match]
Option = bool | int | float | str

ALL = "all"
"""Value of ``--method`` that selects every method."""

NO_MEMORY = (torch.OutOfMemoryError, MemoryError)
"""Errors for lack of memory, which are not a method's own fault wherever they are raised."""

REGISTERED: dict[str, type[Method]] = {}
"""Methods defined in this process, by name; a ``Registry`` that loads a plugin moves its methods into itself."""


class Method:
    """Choice of positives, and the loss that is built from them.

    A plain matching strategy needs only the ``@matching`` decorator. Subclass when the head or the objective differ::

        class Mine(Method, name="mine", level="dense"):
            def loss(self, views, objective): ...

    Attributes:
        name: Name on the command line, after ``--method``.
        level: ``dense`` (one vector a cell) or ``instance`` (one pooled vector an image).
        origin: ``file:line`` of the plugin.
    """

    name: ClassVar[str]
    level: ClassVar[Level]
    origin: ClassVar[str]

    def __init__(self, **options: Option) -> None:
        known = self.defaults()
        for key, value in options.items():
            if key not in known:
                raise MethodError(
                    f"method {self.name!r} has no option {key!r}{nearest(key, list(known))}; "
                    f"options: {', '.join(known) or 'none'}"
                )
            options[key] = _as(type(known[key]), value, f"method {self.name!r}: option {key!r}")
        self.options: dict[str, Option] = {**known, **options}

    def __init_subclass__(cls, *, name: str, level: Level = "dense", origin: str | None = None) -> None:
        cls.name, cls.level = name, level
        cls.origin = origin or f"{inspect.getfile(cls)}:{inspect.getsourcelines(cls)[1]}"
        if not re.fullmatch(r"\w[\w-]*", name) or name in (ALL, RANDOM_INIT):
            raise MethodError(
                f"method {name!r}: a name is made of letters, digits, _ and -, and is neither {ALL!r} nor "
                f"{RANDOM_INIT!r} ({cls.origin})"
            )
        if name in REGISTERED and REGISTERED[name].origin != cls.origin:
            raise NameTakenError(name, REGISTERED[name].origin, cls.origin)
        if level not in ("instance", "dense"):
            raise MethodError(f"method {name!r}: level must be 'instance' or 'dense', got {level!r} ({cls.origin})")
        REGISTERED[name] = cls

    @classmethod
    def defaults(cls) -> dict[str, Option]:
        """Return the options and their defaults."""
        return {}

    @property
    def file(self) -> Path:
        """Source file of the plugin."""
        return Path(self.origin.rpartition(":")[0])

    def head(self, encoder: Encoder, spec: EncoderSpec) -> nn.Module:
        """Build the projection head, (B, P, C) -> (B, P, D) unit-norm."""
        return ProjectionHead(encoder.channels, spec.hidden, spec.projection)

    def match(self, views: DenseViews) -> Match:
        """Return the positives of view 1's cells in view 2."""
        raise MethodError(f"method {self.name!r} must define match() or loss() ({self.origin})")

    def build_head(self, encoder: Encoder, spec: EncoderSpec) -> nn.Module:
        """Call ``head``; an error in it becomes a ``MethodError`` that names the plugin."""
        with self._telling_where():
            head = self.head(encoder, spec)
        if not isinstance(head, nn.Module):
            raise MethodError(f"{self}: head() must return a torch.nn.Module, got {type(head).__name__}")
        return head

    def project(self, head: nn.Module, features: Tensor) -> Tensor:
        """Project (B, P, C) features to (B, P, D); an error in the head becomes a ``MethodError``."""
        with self._telling_where():
            z = head(features)
        if not isinstance(z, Tensor) or z.ndim != 3 or z.shape[:2] != features.shape[:2]:
            found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise MethodError(
                f"{self}: the head takes features {tuple(features.shape)} to (B, P, D) = "
                f"({features.shape[0]}, {features.shape[1]}, D), got {found}"
            )
        return z

    def checked_loss(self, views: DenseViews, objective: InfoNCE | AlignUniform) -> LossTerms:
        """Call ``loss``; where head or loss are a plugin's own, an error in it becomes a ``MethodError``."""
        if type(self).loss is Method.loss and type(self).head is Method.head:
            return self.loss(views, objective)
        with self._telling_where():
            terms = self.loss(views, objective)
        if not isinstance(terms, LossTerms):
            raise MethodError(f"{self}: loss() must return LossTerms, got {type(terms).__name__}")
        for part in ("alignment", "distribution"):
            value = getattr(terms, part)
            if not isinstance(value, Tensor) or value.ndim:
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise MethodError(f"{self}: loss() must give scalar tensors, got {part} {found}")
        if views.z1.requires_grad and not terms.total.requires_grad:
            raise MethodError(f"{self}: loss() must be differentiable with respect to views.z1 and views.z2")
        return terms

    def loss(self, views: DenseViews, objective: InfoNCE | AlignUniform) -> LossTerms:
        """Compute the two terms of the loss of a batch, symmetrised over the views."""
        z1, z2 = views.z1, views.z2
        forth, back = self.matches(views)
        if isinstance(objective, InfoNCE):
            return info_nce(
                z1, z2, (forth, back), objective.temperature, objective.negatives, objective.positive_in_denominator
            )
        L_a = (alignment(z1, z2, forth) + alignment(z2, z1, back)) / 2
        L_u = (uniformity(z1, objective.t, objective.scope) + uniformity(z2, objective.t, objective.scope)) / 2
        return LossTerms(alignment=objective.w_a * L_a, distribution=objective.w_u * L_u)

    def matches(self, views: DenseViews) -> tuple[Match, Match]:
        """Return the checked matches from view 1 to view 2 and from view 2 to view 1."""
        return self._checked_match(views), self._checked_match(views.swapped())

    def __str__(self) -> str:
        return f"method {self.name!r} ({self.origin})"

    @contextmanager
    def _telling_where(self) -> Iterator[None]:
        try:
            yield
        except (Diverged, MethodError):
            raise
        except (Exception, SystemExit) as error:  # a plugin may raise anything; the message says where
            own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == self.file]
            where = f"{own[-1].filename}:{own[-1].lineno}" if own else self.origin
            if isinstance(error, NO_MEMORY):  # the machine's limit, not the plugin's fault
                error.add_note(f"method {self.name!r} ({where})")
                raise
            raise MethodError(f"method {self.name!r} ({where}): {first_line(error)}") from error

    def _checked_match(self, views: DenseViews) -> Match:
        with self._telling_where(), torch.no_grad():
            match = self.match(views)
        shape, device = tuple(views.z1.shape[:2]), views.z1.device
        if not isinstance(match, Match):
            raise MethodError(f"{self} must return a Match, got {type(match).__name__}")
        if match.shape != shape:
            raise MethodError(f"{self}: match is for (B, P) = {match.shape}, not {shape}")
        if match.anchors.device != device:
            raise MethodError(f"{self}: match is on {match.anchors.device}, the views are on {device}")
        return match


def matching(name: str, level: Level = "dense") -> Callable[[Strategy], Strategy]:
    """Register a function as the matching strategy ``name``.

    The function takes ``DenseViews`` and returns a ``Match``; its keyword-only arguments with defaults are the method's
    options. The function itself is returned unchanged.
    """

    def register(strategy: Strategy) -> Strategy:
        # The plugin is the caller's file: the strategy may be another decorator's wrapper, or be defined elsewhere.
        place = sys._getframe(1)
        file, line = place.f_code.co_filename, place.f_lineno
        code = getattr(inspect.unwrap(strategy), "__code__", None)
        if code is not None and code.co_filename == file:
            line = code.co_firstlineno
        origin = f"{file}:{line}"
        defaults: dict[str, Option] = {}
        for parameter in inspect.signature(strategy).parameters.values():
            if parameter.kind is not parameter.KEYWORD_ONLY:
                continue
            if not isinstance(parameter.default, bool | int | float | str):
                raise MethodError(
                    f"method {name!r} ({origin}): option {parameter.name!r} needs a bool, number or text as default"
                )
            defaults[parameter.name] = parameter.default

        def match(self: Method, views: DenseViews) -> Match:
            return strategy(views, **self.options)

        body: dict[str, Any] = {
            "__doc__": strategy.__doc__,
            "__module__": place.f_globals["__name__"],
            "defaults": classmethod(lambda cls: dict(defaults)),
            "match": match,
        }
        type(name, (Method,), body, name=name, level=level, origin=origin)
        return strategy

    return register


def _as(kind: type, value: Option, what: str) -> Option:
    """Convert text from the command line to the type of the option's default."""
    if kind is bool and str(value).lower() in ("true", "false", "1", "0"):
        return str(value).lower() in ("true", "1")
    if kind is not bool:
        try:
            converted: Option = kind(str(value))
            if converted == converted:  # not NaN
                return converted
        except ValueError:
            pass
    raise MethodError(f"{what} takes {kind.__name__}, got {value!r}")
