"""Learned perceptual distances; one float64 value an image, lower is nearer.

The nets compute in float32: a value may differ by about 1e-6 between batch sizes and machines.

N batch, H height, W width.
"""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from frcore.frozen.torchvision_cpu import import_torchvision
from frcore.io.images import check_images
from frcore.metrics import metric

_LPIPS_NETS = {"alex": "alexnet", "vgg": "vgg16"}  # lpips's word -> torchvision's


def load_lpips(net: str, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """LPIPS 0.1 of the lpips package on "alex" or "vgg", without its download.

    path: torchvision's ImageNet weights of AlexNet or VGG16; the linear heads are in the package.
    Raises ValueError for another net, FileNotFoundError, RuntimeError for a file of another net.
    """
    if net not in _LPIPS_NETS:
        raise ValueError(f"unknown LPIPS net {net!r}, expected one of {list(_LPIPS_NETS)}")
    model = getattr(import_torchvision().models, _LPIPS_NETS[net])(weights=None)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    import lpips

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces itself, and uses torchvision's old words
        module = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    # lpips cuts torchvision's `features` into slices and keeps the layers' numbers as names
    state = {}
    for name in module.net.state_dict():
        _, number, kind = name.split(".")
        state[name] = model.features.state_dict()[f"{number}.{kind}"]
    module.net.load_state_dict(state, strict=True)
    return module.requires_grad_(False).eval().to(device)


@metric(
    "lpips_alex_v0.1",
    title="LPIPS (Alex)",
    higher_is_better=False,
    assets=["alexnet"],
    min_side=32,
    what="LPIPS 0.1 of the lpips package, ImageNet AlexNet",
)
@metric(
    "lpips_vgg_v0.1",
    title="LPIPS (VGG)",
    higher_is_better=False,
    assets=["vgg16"],
    min_side=16,
    what="LPIPS 0.1 of the lpips package, ImageNet VGG16",
)
def lpips_distance(restored: torch.Tensor, truth: torch.Tensor, net: nn.Module) -> np.ndarray:
    """LPIPS (Zhang et al., CVPR 2018) -> N values; both N x 3 x H x W in [0, 1].

    net: of `load_lpips`. Raises ValueError for other or unequal shapes and ranges.
    """
    return _values(lambda x, y: net(2 * x - 1, 2 * y - 1), restored, truth)


@metric(
    "stlpips_vgg",
    title="ST-LPIPS (VGG)",
    higher_is_better=False,
    assets=["stlpips_vgg"],
    min_side=18,
    what="shift-tolerant LPIPS, vST0.0, VGG; not comparable with LPIPS",
)
@metric(
    "stlpips_alex",
    title="ST-LPIPS (Alex)",
    higher_is_better=False,
    assets=["stlpips_alex"],
    min_side=21,
    what="shift-tolerant LPIPS, vST0.0, AlexNet; not comparable with LPIPS",
)
def stlpips_distance(restored: torch.Tensor, truth: torch.Tensor, net: nn.Module) -> np.ndarray:
    """ST-LPIPS (frcore.frozen.stlpips) -> N values; both N x 3 x H x W in [0, 1].

    Raises ValueError for other or unequal shapes and ranges, or images too small for the net.
    """
    return _values(net, restored, truth)


@torch.no_grad()
def _values(distance, restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    check_images(restored, "restored")
    check_images(truth, "truth")
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
        )
    return distance(restored, truth).flatten().double().cpu().numpy()
