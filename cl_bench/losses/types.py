"""Tensors that views, matching strategies and losses exchange.

Letters used throughout: B images of a batch, P cells of a feature map (1 at instance level), C backbone channels,
D projection dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cl_bench.losses.checks import are_gathered, require

TOUCHING = 1e-6
"""Overlap, as a share of the image's side, up to which two cells only touch.

Float32 centres and sizes are off by less than 5e-7 together, while whole-pixel crops of an image ``n`` pixels wide, in
``W`` cells, overlap by 1 / (n W) at least: 3e-5 for 4,000 pixels in 8 cells.
"""


@dataclass(frozen=True)
class LossTerms:
    """A contrastive loss as a sum of two terms (Eq. 3 of the paper).

    Attributes:
        alignment: Scalar term that pulls positives together.
        distribution: Scalar term that spreads features apart.
    """

    alignment: Tensor
    distribution: Tensor

    @property
    def total(self) -> Tensor:
        """Loss, the sum of its terms; a scalar."""
        return self.alignment + self.distribution


@dataclass(frozen=True)
class DenseViews:
    """Two augmented views of a batch, the input of a matching strategy.

    Attributes:
        z1: (B, P, D) unit-norm projections of view 1; ``z2`` of view 2.
        h1: (B, P, C) unit-norm backbone features of view 1, detached; ``h2`` of view 2.
        norm1: (B, P) lengths of the backbone features before they were made unit-norm, detached; ``norm2`` of view 2.
        xy1: (B, P, 2) cell centres (x, y) in source-image coordinates [0, 1], flips respected; ``xy2`` likewise.
        size1: (B, 2) width and height of a cell in source-image coordinates; ``size2`` likewise.
        grid: (H, W) with H * W = P; cell p lies in row p // W, column p % W.
    """

    z1: Tensor
    z2: Tensor
    h1: Tensor
    h2: Tensor
    norm1: Tensor
    norm2: Tensor
    xy1: Tensor
    xy2: Tensor
    size1: Tensor
    size2: Tensor
    grid: tuple[int, int]

    def swapped(self) -> DenseViews:
        """Return the same batch with view 2 as the view of the anchors."""
        return DenseViews(
            z1=self.z2,
            z2=self.z1,
            h1=self.h2,
            h2=self.h1,
            norm1=self.norm2,
            norm2=self.norm1,
            xy1=self.xy2,
            xy2=self.xy1,
            size1=self.size2,
            size2=self.size1,
            grid=self.grid,
        )

    def cosine(self, of: Literal["backbone", "projection"] = "backbone") -> Tensor:
        """Compute the (B, P, P) cosines of view 1's features (rows) and view 2's, detached, in at least float32.

        Args:
            of: ``backbone`` for the features ``h1`` and ``h2``, ``projection`` for ``z1`` and ``z2``.
        """
        first, second = (self.h1, self.h2) if of == "backbone" else (self.z1, self.z2)
        first, second = first.detach(), second.detach()
        if first.dtype != torch.float64:
            first, second = first.float(), second.float()
        with torch.autocast(first.device.type, enabled=False):  # half precision would make close neighbours tie
            return first @ second.mT

    def distance(self) -> Tensor:
        """Compute the (B, P, P) distances of view 1's cell centres (rows) and view 2's, in source-image coordinates."""
        # A matrix product would give a distance of about 1e-4 from a cell to itself.
        return torch.cdist(self.xy1, self.xy2, compute_mode="donot_use_mm_for_euclid_dist")

    def near(self, threshold: float) -> Tensor:
        """Return (B, P, P) bool, True for cells whose centres are less than ``threshold`` cell diagonals apart.

        The diagonal is that of a cell of the larger view.
        """
        diagonal = torch.maximum(self.size1.norm(dim=-1), self.size2.norm(dim=-1))
        return self.distance() < threshold * diagonal[:, None, None]


@dataclass(frozen=True)
class Match:
    """Positives in view 2 of each cell of view 1; it carries no gradient.

    Give either ``weights`` or ``index`` (with an optional ``valid``).

    Attributes:
        weights: (B, P, P) non-negative; row p sums to 1 over the cells of view 2, or is all 0 (cell p has no positive
            and takes no part in the loss).
        index: (B, P) int64, the single positive of each cell.
        valid: (B, P) bool, True for cells that have a positive; all cells have one when it is left out.

    Raises:
        ValueError: If neither or both forms are given; for a wrong shape or dtype, a gradient, or an index out of
            range; for weights that are negative, not finite, or in a row that sums to neither 1 nor 0.
    """

    weights: Tensor | None = None
    index: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.index is None):
            raise ValueError("Match takes either weights= (B, P, P) or index= (B, P), not both and not neither")
        if self.weights is not None:
            self._check_weights(self.weights)
        if self.index is not None:
            self._check_index(self.index)

    def _check_weights(self, w: Tensor) -> None:
        if self.valid is not None:
            raise ValueError(
                "Match: valid= belongs to index=; with weights= a cell without positive has a row of zeros"
            )
        if w.ndim != 3 or w.shape[1] != w.shape[2]:
            raise ValueError(f"Match: weights must be (B, P, P), got {tuple(w.shape)}")
        if not w.is_floating_point():
            raise ValueError(f"Match: weights must be floating point, got {w.dtype}")
        if w.requires_grad:
            raise ValueError(
                f"Match: weights {tuple(w.shape)} carry a gradient; matching is detached (use views.h1 and views.h2)"
            )
        finite = torch.isfinite(w).all() & (w >= 0).all()
        require(finite, ValueError, f"Match: weights {tuple(w.shape)} must be finite and non-negative")
        rows = w.sum(-1, dtype=torch.float32 if w.dtype != torch.float64 else None)
        tolerance = 1e-2 if w.dtype in (torch.float16, torch.bfloat16) else 1e-4
        bad = ((rows - 1).abs() > tolerance) & (rows != 0)

        def first_bad() -> str:
            b, p = bad.nonzero()[0].tolist()
            return f"; row [{b}, {p}] sums to {rows[b, p]:.4g}"

        require(~bad.any(), ValueError, "Match: each row of weights must sum to 1 or 0", first_bad)

    def _check_index(self, index: Tensor) -> None:
        if index.ndim != 2 or index.dtype != torch.int64:
            raise ValueError(f"Match: index must be (B, P) int64, got {tuple(index.shape)} {index.dtype}")
        P = index.shape[1]
        require(
            ((index >= 0) & (index < P)).all(),
            ValueError,
            f"Match: index must lie in [0, {P - 1}]",
            lambda: f", got {int(index.min())} to {int(index.max())}",
        )
        if are_gathered():  # an index out of range would end the GPU's context before the check is read
            object.__setattr__(self, "index", index.clamp(0, P - 1))
        if self.valid is not None and (self.valid.shape != index.shape or self.valid.dtype != torch.bool):
            raise ValueError(
                f"Match: valid must be {tuple(index.shape)} bool, got {tuple(self.valid.shape)} {self.valid.dtype}"
            )

    @classmethod
    def identity(cls, views: DenseViews) -> Match:
        """Match cell p of one view with cell p of the other."""
        B, P = views.z1.shape[:2]
        return cls(index=torch.arange(P, device=views.z1.device).expand(B, P))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (B, P): images of the batch and cells."""
        form = self.weights if self.weights is not None else self.index
        assert form is not None
        return form.shape[0], form.shape[1]

    @property
    def anchors(self) -> Tensor:
        """Mask (B, P) bool, True for the cells that have a positive."""
        if self.weights is not None:
            return self.weights.sum(-1) > 0
        assert self.index is not None
        return self.valid if self.valid is not None else torch.ones_like(self.index, dtype=torch.bool)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the weights as (B, P, P), whichever form was given."""
        if self.weights is not None:
            return self.weights.to(dtype)
        assert self.index is not None
        w = torch.zeros(*self.index.shape, self.index.shape[1], dtype=dtype, device=self.index.device)
        return w.scatter_(-1, self.index.unsqueeze(-1), self.anchors.unsqueeze(-1).to(dtype))

    def reversed(self) -> Match:
        """Return the correspondence from view 2 to view 1: weights transposed, each row scaled to sum to 1 again."""
        w = self.dense(torch.float32 if self.weights is None else self.weights.dtype).mT
        rows = w.sum(-1, keepdim=True)
        return Match(weights=w / torch.where(rows > 0, rows, 1.0))


@torch.no_grad()
def correct_positives(match: Match, views: DenseViews) -> Tensor:
    """Count the positives of view 1's cells that overlap their cell in the source image, and all positives.

    Their ratio is the matching precision. A cell is a rectangle of the source image (its receptive field is larger),
    and a positive is correct if the two rectangles overlap, however little. Positives count by their weights: each
    anchor counts as one, and a cell without a positive as zero.

    Args:
        match: Match from view 1 to view 2.
        views: Views with (B, P) cells; only their geometry is used.

    Returns:
        (2,) float64, the number of correct positives and of all positives; 0 both where no cell has a positive.
    """
    weights = match.dense(torch.float64)
    return torch.stack([(weights * cells_overlap(views)).sum(), weights.sum()])


def cells_overlap(views: DenseViews) -> Tensor:
    """Return (B, P, P) bool: whether cell p of view 1 and cell q of view 2 overlap in the source image."""
    apart = (views.xy1[:, :, None] - views.xy2[:, None, :]).abs()
    reach = ((views.size1 + views.size2) / 2)[:, None, None]
    return (apart < reach - TOUCHING).all(-1)
