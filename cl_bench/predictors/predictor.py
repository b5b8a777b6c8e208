"""Definition of a predictor, a function of the features of held-out images, and of its input ``Seen``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from cl_bench.encoders import unit
from cl_bench.errors import NameTakenError, PredictorError, first_line, line_in, nearest
from cl_bench.spec.records import LEVELS, Better, Level

Needs = Literal["labels", "losses"]
Where = Level | Literal["encoder"]

REGISTERED: dict[str, Predictor] = {}
"""Predictors defined in this process, by name; a registry that loads a plugin moves its predictors into itself."""


@dataclass(frozen=True)
class Seen:
    """Input of a predictor: backbone features of two views of N held-out images, before any head.

    Attributes:
        level: ``dense``, P cells of C channels per image; or ``instance``, their mean, P = 1.
        x1: (N, P, C) features of view 1, not normalised.
        x2: Features of view 2, of the same shape; cell p of both is a positive pair under dense_index.
        h1: ``x1`` scaled to unit length.
        h2: ``x2`` scaled to unit length.
        knob: Strength, in [0, 1], with which the objective pushes features apart rather than together: the share of
            L_u's weight in ``w_a L_a + w_u L_u``, and ``1 / (1 + temperature)`` of InfoNCE.
        has: Names that a predictor may declare in ``needs``; reading one without declaring it is an error.
    """

    level: Level
    x1: Tensor
    x2: Tensor
    h1: Tensor
    h2: Tensor
    knob: float
    has: tuple[Needs, ...] = ()
    _labels: Tensor | None = None
    _losses: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        level: Level,
        x1: Tensor,
        x2: Tensor,
        knob: float,
        labels: Tensor | None = None,
        losses: tuple[float, ...] = (),
    ) -> Seen:
        """Make the input at a level from features (N, P, C) of two views, with unit-length copies."""
        has: tuple[Needs, ...] = (*(("labels",) if labels is not None else ()), *(("losses",) if losses else ()))
        return cls(level, x1, x2, unit(x1), unit(x2), knob, has, labels, losses)

    @property
    def labels(self) -> Tensor:
        """Class of each image, (N,) int64."""
        self._asked_for("labels")
        assert self._labels is not None
        return self._labels

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss at each logged step of pre-training."""
        self._asked_for("losses")
        return self._losses

    def shown(self, needs: tuple[Needs, ...]) -> Seen:
        """Return a copy of the features for a predictor with these needs."""
        copies = {name: getattr(self, name).clone() for name in FEATURES}
        labels = None if self._labels is None else self._labels.clone()
        return replace(self, **copies, _labels=labels, has=tuple(n for n in self.has if n in needs))

    def changed_from(self, other: Seen) -> str:
        """Return the name of the first feature that differs from another input's; empty where none does."""
        return next((name for name in FEATURES if not torch.equal(getattr(self, name), getattr(other, name))), "")

    def _asked_for(self, what: Needs) -> None:
        if what not in self.has:
            raise PredictorError(f'reads {what}, which it does not ask for: needs="{what}"')


FEATURES = ("x1", "x2", "h1", "h2")
Figure = Callable[[Seen], float]


@dataclass(frozen=True)
class Predictor:
    """A figure of an encoder that may predict its downstream performance.

    Attributes:
        name: Name on the command line, such as ``rankme``; at the dense level the figure is ``rankme@dense``.
        better: ``low`` or ``high``: the values that predict better performance.
        levels: Levels at which it is computed: ``instance`` and ``dense``, or ``encoder`` for one value per encoder
            (from dense features).
        needs: Inputs besides features: ``labels``, ``losses``. Where one is not available it is not computed.
        figure: Function that computes it.
        origin: ``file:line`` of the plugin.
        module: Name of the module that defines it.
    """

    name: str
    better: Better
    levels: tuple[Where, ...]
    needs: tuple[Needs, ...]
    figure: Figure
    origin: str
    module: str

    @property
    def file(self) -> Path:
        """Source file of the plugin."""
        return Path(self.origin.rpartition(":")[0])

    def __call__(self, seen: Seen) -> float:
        """Compute its value on the input at one level.

        Raises:
            PredictorError: If it raised, did not return a finite number, wrote to the features, or read an input that
                it does not declare; the message is one line with its file and line.
        """
        shown = seen.shown(self.needs)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                value = self.figure(shown)
        except PredictorError as error:
            raise self.error(str(error), error) from error
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)):  # the machine's limit, not the plugin's fault
                raise
            raise self.error(first_line(error), error) from error
        if written := shown.changed_from(seen):
            raise self.error(f"it writes to {written}, which others read too: clone it first")
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise self.error(f"it must return one number, got {found}")
        if not abs(float(value)) < float("inf"):
            raise self.error(f"it must return a finite number, got {float(value)}")
        return float(value)

    def error(self, what: str, at: BaseException | None = None) -> PredictorError:
        """Make an error that says what is wrong with it, and where in the plugin."""
        line = line_in(at, str(self.file)) if at is not None else None
        where = f"{self.file}:{line}" if line else self.origin
        return PredictorError(f"predictor {self.name!r} ({where}): {what}")


def predictor(
    name: str, better: Better, level: Where | tuple[Where, ...] = LEVELS, needs: Needs | tuple[Needs, ...] = ()
) -> Callable[[Figure], Figure]:
    """Register a function of ``Seen`` as the predictor ``name``. The function itself is returned unchanged.

    Args:
        name: Name of letters, digits, ``_`` and ``-``.
        better: ``low`` or ``high``: the values that predict better performance.
        level: ``instance``, ``dense``, both (the default), or ``encoder`` for one value per encoder.
        needs: ``labels`` or ``losses``, if it reads them.

    Raises:
        PredictorError: If a name, direction, level or need is not valid, or the name is taken.
    """
    levels = (level,) if isinstance(level, str) else tuple(level)
    wanted = (needs,) if isinstance(needs, str) else tuple(needs)

    def register(figure: Figure) -> Figure:
        place = sys._getframe(1)
        file, line = place.f_code.co_filename, place.f_lineno
        code = getattr(figure, "__code__", None)
        origin = f"{file}:{code.co_firstlineno if code is not None and code.co_filename == file else line}"
        if not re.fullmatch(r"\w[\w-]*", name):
            raise PredictorError(f"predictor {name!r}: a name is made of letters, digits, _ and - ({origin})")
        for what, given, known in (
            ("better", (better,), get_args(Better)),
            ("level", levels, (*LEVELS, "encoder")),
            ("needs", wanted, get_args(Needs)),
        ):
            for value in given or ((None,) if what == "level" else ()):
                if value not in known:
                    near = nearest(str(value), known)
                    raise PredictorError(
                        f"predictor {name!r}: {what} is one of {', '.join(known)}, got {value!r}{near} ({origin})"
                    )
        if name in REGISTERED and REGISTERED[name].origin != origin:
            raise NameTakenError(name, REGISTERED[name].origin, origin, "predictor")
        REGISTERED[name] = Predictor(name, better, levels, wanted, figure, origin, place.f_globals["__name__"])
        return figure

    return register
