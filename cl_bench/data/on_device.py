"""Images on a GPU: a data set of one size as a single uint8 tensor there, from which batches and views are made."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_bench.data.dataset import Images, Ragged

SHARE = 0.5
"""Share of the GPU's free memory that the images may fill (our choice)."""
_held: list[tuple[Images, torch.device, Tensor]] = []  # the last data set, which the encoders of a sweep share


def on_device(images: Images, device: torch.device) -> Images:
    """Return images of one size as (N, 3, H, W) uint8 on a GPU, if they fit; otherwise, and for a CPU, as they are.

    They are copied once for all encoders of a sweep: the last data set stays there until there is another.
    """
    if device.type == "cpu":
        return images
    if _held and _held[0][0] is images and _held[0][1] == device:
        return _held[0][2]
    whole = images.of_one_size() if isinstance(images, Ragged) else images
    _held.clear()
    if whole is None or whole.numel() > SHARE * torch.cuda.mem_get_info(device)[0]:
        return images
    _held.append((images, device, whole.to(device)))
    return _held[0][2]
