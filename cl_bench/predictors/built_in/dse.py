"""The parts of DSE, the dense representation structure estimator (Dai et al., NeurIPS 2025, arXiv:2510.17299).

DSE is ``separation + lambda * dimension`` (their Eq. 5). lambda is taken over the encoders that are compared, so that
the league puts the two together. The paper leaves scales open which its code fixes: the parts here are the code's.
"""

import torch
from torch import Tensor

from cl_bench.predictors import Seen, predictor
from cl_bench.predictors.spectrum import effective_rank, singular_values

IMAGES = 1024
"""Taken at most, as in the authors' batch."""
LOCAL, GLOBAL, GROUP = 3, 24, 8
"""Clusters of one image, clusters of a group, and images a group, as the authors' README has them."""
ROUNDS = 20


@predictor("dse_separation", better="high", level="dense")
def separation(seen: Seen) -> float:
    """Distance between clusters of cells, less their own extent: ``M_inter - M_intra``.

    Unit-norm cells are clustered by k-means, 3 clusters an image and 24 a group of eight images. ``M_inter`` is the
    mean distance of a cell to the nearest centre that is not its own, in groups. ``M_intra`` is the mean over clusters
    of the sum of singular values of a centred cluster of n cells over ``sqrt(max(n - 1, C))``, averaged over the two
    clusterings. Both are in units of the cells' mean distance to their mean; constant cells have 0.

    Source: Dai et al., section 4, and their code.
    """
    h = seen.h1[:IMAGES].double()
    N, P, C = h.shape
    unit = torch.linalg.vector_norm(h - h.mean((0, 1)), dim=-1).mean()
    if not unit > 1e-9:
        return 0.0
    _, of_image = k_means(h, min(LOCAL, P))
    whole = N - N % GROUP if N >= GROUP else N
    groups = h[:whole].reshape(-1, min(GROUP, N) * P, C)
    centres, of_group = k_means(groups, min(GLOBAL, groups.shape[1]))
    apart = torch.cdist(groups, centres).scatter(-1, of_group[..., None], torch.inf).amin(-1)
    inter = apart[apart.isfinite()].mean() if bool(apart.isfinite().any()) else apart.new_zeros(())
    intra = (mean_radius(groups, of_group, centres.shape[1]) + mean_radius(h, of_image, min(LOCAL, P))) / 2
    return float((inter - intra) / unit)


@predictor("dse_dimension", better="high", level="dense")
def dimension(seen: Seen) -> float:
    """``M_dim``: the effective rank of one cell an image, at most 1 after division by min(N, C), over P such draws.

    The cells of each image are put in a random order first.

    Source: Dai et al., section 4, and their code.
    """
    h = seen.h1[:IMAGES]
    N, P, C = h.shape
    order = torch.stack([torch.randperm(P) for _ in range(N)]).to(h.device)
    drawn = h.gather(1, order[..., None].expand(-1, -1, C))
    ranks = [effective_rank(singular_values(drawn[:, p])) for p in range(P)]
    return sum(ranks) / P / min(N, C)


def k_means(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """k-means of each of B sets of n points at once, from k-means++ centres; draws are torch's own.

    Args:
        x: (B, n, C) points.
        k: Clusters, at most n.

    Returns:
        (B, k, C) centres, and (B, n) int64, the nearest centre of each point.
    """
    B, n, _ = x.shape
    each = torch.arange(B, device=x.device)
    centres = x[each, torch.randint(n, (B,)).to(x.device)][:, None]
    far = x.new_full((B, n), torch.inf)
    for _ in range(k - 1):
        far = torch.minimum(far, (x - centres[:, -1:]).square().sum(-1))
        chosen = torch.multinomial((far + 1e-12).cpu(), 1).to(x.device)[:, 0]
        centres = torch.cat([centres, x[each, chosen][:, None]], 1)
    nearest = torch.cdist(x, centres).argmin(-1)
    for _ in range(ROUNDS):
        member = torch.nn.functional.one_hot(nearest, k).to(x.dtype)
        count = member.sum(1)[..., None]
        centres = torch.where(count > 0, member.mT @ x / count.clamp_min(1), centres)
        before, nearest = nearest, torch.cdist(x, centres).argmin(-1)
        if torch.equal(before, nearest):
            break
    return centres, nearest


def mean_radius(x: Tensor, cluster: Tensor, k: int) -> Tensor:
    """The mean, over clusters of two points and more, of a centred cluster's nuclear norm / sqrt(max(n - 1, C)).

    Args:
        x: (B, n, C) points of B sets.
        cluster: (B, n) int64, below k.
        k: Clusters a set.
    """
    B, _, C = x.shape
    which = (cluster + k * torch.arange(B, device=x.device)[:, None]).flatten()
    order = which.argsort(stable=True)
    sizes = which.bincount(minlength=B * k)
    ends = sizes.cumsum(0)
    slots = torch.arange(int(sizes.max()), device=x.device)
    inside = slots < sizes[:, None]
    place = (ends - sizes)[:, None] + slots
    points = x.flatten(0, 1)[order[place.clamp_max(len(order) - 1)]] * inside[..., None]
    centred = (points - (points.sum(1) / sizes.clamp_min(1)[:, None])[:, None]) * inside[..., None]
    several = sizes > 1
    if not bool(several.any()):
        return x.new_ones(())
    chosen = centred[several]
    gram = chosen @ chosen.mT if chosen.shape[1] <= C else chosen.mT @ chosen
    nuclear = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum(-1)
    radius: Tensor = nuclear / (sizes[several] - 1).clamp_min(C).sqrt()
    return radius.mean()
