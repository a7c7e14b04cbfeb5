"""What set metrics compare: features of a net, an image a row. NIQE's blocks are in noreference.

N images, S side.
"""

import numpy as np
import torch

from frcore.metrics import features
from frcore.metrics.parts import in_parts


@features("mobilenet_v2", assets=["mobilenet_v2"], statistics=True)
@torch.inference_mode()
def mobilenet_v2(images: torch.Tensor, net) -> np.ndarray:
    """N x 3 x H x W in [0, 1] -> N x 1280."""
    return in_parts(net, 16 * 128 * 128, images).float().cpu().numpy()


@features("inception", assets=["inception"], statistics=True)
@torch.inference_mode()
def inception(images: torch.Tensor, net) -> np.ndarray:
    """N x 3 x H x W in [0, 1] -> N x 2048."""
    return net(images).float().cpu().numpy()


@features("dlib_resnet", assets=["dlib_resnet"], min_side=16, square=True)
@torch.inference_mode()
def dlib_resnet(images: torch.Tensor, net, crop_scale: float, crop_shift: float) -> np.ndarray:
    """Aligned frames N x 3 x S x S in [0, 1] -> descriptors N x 128."""
    return net.descriptors(images, crop_scale, crop_shift).float().cpu().numpy()
