"""k-nearest-neighbour accuracy, with labels: the yardstick that predictors without labels are held against."""

import torch

from cl_bench.predictors import Seen, predictor

K = 20
TEMPERATURE = 0.07
BLOCK = 1024


@predictor("knn", better="high", level="instance", needs="labels")
def knn(seen: Seen) -> float:
    """The share of held-out images whose class their 20 nearest name, by cosine and weighted by ``exp(cos / .07)``.

    Of data without a label an image (multi-object) there is none.

    Source: Wu et al., CVPR 2018; k = 20 as Caron et al., ICCV 2021.
    """
    h, labels = seen.h1[:, 0], seen.labels
    known = torch.nn.functional.one_hot(labels).to(h.dtype)
    right = 0
    for rows in torch.split(torch.arange(len(h), device=h.device), BLOCK):
        cosines = h[rows] @ h.mT
        cosines[torch.arange(len(rows), device=h.device), rows] = -torch.inf
        nearest, where = cosines.topk(min(K, len(h) - 1))
        votes = ((nearest / TEMPERATURE).exp()[..., None] * known[where]).sum(1)
        right += int((votes.argmax(1) == labels[rows]).sum())
    return right / len(h)
