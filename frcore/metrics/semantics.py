"""Does the restored face still show the same person; one float64 value an image.

The net computes in float32: a value may differ by about 1e-6 between batch sizes and machines.

N batch, S side of a square frame.
"""

import numpy as np
import torch

from frcore.helpers.identity import Identity
from frcore.images import check_images


def id_dlib(
    restored: torch.Tensor,
    truth: torch.Tensor,
    net: Identity,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
) -> np.ndarray:
    """Cosine of the two descriptors -> N values in [-1, 1]; 1 for equal images.

    Both are aligned frames N x 3 x S x S in [0, 1]; crop_scale and crop_shift are those of the
    alignment (frcore.helpers.identity.window).
    Raises ValueError for other or unequal shapes and ranges.
    """
    a, b = _descriptors(restored, truth, net, crop_scale, crop_shift)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def id_dlib_distance(
    restored: torch.Tensor,
    truth: torch.Tensor,
    net: Identity,
    crop_scale: float = 0.7,
    crop_shift: float = 0.1,
) -> np.ndarray:
    """Euclidean distance of the two descriptors -> N values; dlib says one person below 0.6.

    Arguments and errors as `id_dlib`.
    """
    a, b = _descriptors(restored, truth, net, crop_scale, crop_shift)
    return np.sqrt(np.square(a - b).sum(1))


@torch.no_grad()
def _descriptors(restored, truth, net, crop_scale, crop_shift) -> tuple[np.ndarray, np.ndarray]:
    check_images(restored, "restored")
    check_images(truth, "truth")
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
        )
    a = net.descriptors(restored, crop_scale, crop_shift)
    b = net.descriptors(truth, crop_scale, crop_shift)
    return a.double().cpu().numpy(), b.double().cpu().numpy()
