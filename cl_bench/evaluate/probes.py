"""Probes of dense features for information other than a cell's content: its place, its image, its crop's colour.

Features are unit-norm backbone features h, (N, P, C) for P cells of N images. Linear read-outs are ridge regressions
that are fitted to all other images to predict the cells of an image: leave-one-image-out, in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3
"""Penalty of the read-outs, as a share of the features' mean variance along a direction (our choice).

From 1e-5 to 1e-3 the colour share of 16 small encoders moved by less than .005; at 1e-1 it fell by up to .3.
"""
CONSTANT = 1e-12
"""Total variance up to which features count as constant; rounding gives equal unit vectors a variance of 1e-14."""
TIE = 1e-6  # scores closer than this to the highest count as tied with it


def probes(h: Tensor, colours: Tensor) -> dict[str, float]:
    """Compute the shares and read-outs of a set of images, each in [0, 1], by the names of ``Record.probes``.

    Args:
        h: (N, P, C) features of one view of each image.
        colours: (N, 3) mean colour of the view that the encoder saw.

    Returns:
        ``position_share``, ``image_share`` (``variance_shares``), ``colour_share``, ``position_accuracy``
        (``read_outs``) and ``position_chance``, 1 / P.
    """
    position, image = variance_shares(h)
    colour, accuracy = read_outs(h, colours)
    values = torch.stack([position, image, colour, accuracy]).tolist()
    names = ("position_share", "image_share", "colour_share", "position_accuracy")
    return {**dict(zip(names, values, strict=True)), "position_chance": 1 / h.shape[1]}


def variance_shares(h: Tensor) -> tuple[Tensor, Tensor]:
    """Compute position share and image share: the shares of the features' variance due to their place and image.

    They are the variance over cells of the mean over images, and the variance over images of the mean over cells, each
    divided by the mean squared distance of all features to their mean. Features that depend on the place alone have
    (1, 0), on the image alone (0, 1), independent noise has (1 / N, 1 / P), and constant features have (0, 0).

    Args:
        h: (N, P, C) features.

    Returns:
        Two scalars in [0, 1], float64.
    """
    mean = h.mean((0, 1), dtype=torch.float64)
    total = torch.linalg.vector_norm(h, dtype=torch.float64).square() / h.shape[:2].numel() - mean.square().sum()
    between = torch.stack([(h.mean(dim, dtype=torch.float64) - mean).square().sum(-1).mean() for dim in (0, 1)])
    position, image = torch.where(total > CONSTANT, between / total, 0.0).clamp(0, 1)
    return position, image


def read_outs(h: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Predict colour and place linearly from the features of images that the regression was not fitted to.

    Args:
        h: (N, P, C) features.
        colours: (N, 3) mean colour of each image's crop; the same affine change of all channels leaves the share equal.

    Returns:
        Two scalars in [0, 1], float64. The colour share is R^2, over the three channels together, of the regression
        from each cell to its crop's colour, and 0 where it is worse than the mean. The position accuracy is the share
        of cells whose own index has the highest score in the regression to one-hot indices; a tie of k counts 1 / k.
        A single image, which leaves no other image to fit to, has (0, 1 / P).
    """
    N, P, _ = h.shape
    places = torch.eye(P, dtype=torch.float64, device=h.device).expand(N, P, P)
    crops = colours.double()[:, None].expand(N, P, -1)
    if N == 1:
        return crops.new_zeros(()), crops.new_tensor(1 / P)
    predicted = held_out_predictions(h, torch.cat([places, crops], -1))
    scores, seen = predicted[..., :P], predicted[..., P:]
    spread = (crops - crops.mean((0, 1))).square().sum()
    unexplained = torch.where(spread > 0, (crops - seen).square().sum() / spread, 1.0)
    highest = scores >= scores.amax(-1, keepdim=True) - TIE
    right = highest.diagonal(dim1=1, dim2=2) / highest.sum(-1)
    return (1 - unexplained).clamp_min(0), right.mean()


def held_out_predictions(x: Tensor, y: Tensor) -> Tensor:
    """Predict each image by a ridge regression on all others, with an intercept that is not penalised.

    One factorisation serves all N fits: with H the hat matrix of the fit to all images and e its residuals, the
    residuals of image g in the fit without it are ``(I - H_gg)^-1 e_g``.

    Args:
        x: (N, P, C) features, N at least 2.
        y: (N, P, T) targets.

    Returns:
        (N, P, T), float64.
    """
    N, P, C = x.shape
    x, centred = x.double(), y - y.mean((0, 1))
    flat = (x - x.mean((0, 1))).flatten(0, 1)
    gram = flat.mT @ flat
    penalty = (RIDGE * gram.trace() / C).clamp_min(torch.finfo(gram.dtype).tiny)
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(C, dtype=gram.dtype, device=gram.device))
    half = torch.linalg.solve_triangular(factor, flat.mT, upper=False)  # half^T half is the hat matrix
    of_image = half.mT.unflatten(0, (N, P))
    residual = centred - of_image @ (half @ centred.flatten(0, 1))
    own = torch.eye(P, dtype=gram.dtype, device=gram.device) - of_image @ of_image.mT - 1 / (N * P)
    left_out: Tensor = torch.linalg.solve(own, residual)
    return y - left_out
