"""Feature vectors for distances between sets of images; the net is part of the metric's name.

N batch, H height, W width, D length of a feature vector.
"""

from pathlib import Path
from unittest import mock

import torch
from torch import nn

from frcore.frozen import imagenet
from frcore.frozen.perceptual import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    enlarge,
    fold_normalisation,
)
from frcore.frozen.torchvision_cpu import import_torchvision

SIZES = {"mobilenet_v2": 1280, "inception": 2048}  # net -> D


class MobileNetFeatures(nn.Module):
    """ImageNet MobileNetV2's 1280 pooled features, of images enlarged to at least 128 px."""

    def __init__(self, features: nn.Module):
        super().__init__()
        fold_normalisation(features)
        self.features = features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W in [0, 1] -> N x 1280."""
        # 128 as for the perceptual loss, so that one statement about the net covers both
        x = (enlarge(images, 128) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)  # folded and so, 1.4 times as fast
        return self.features(x).mean((2, 3))


class InceptionFeatures(nn.Module):
    """pytorch-fid's Inception-v3: 2048 pooled features of images resized to 299 px (bilinear)."""

    def __init__(self, inception: nn.Module):
        super().__init__()
        self.inception = inception

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W in [0, 1] -> N x 2048."""
        return self.inception(images)[0].flatten(1)


def load(net: str, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Frozen feature net: "mobilenet_v2" (torchvision's file) or "inception" (pytorch-fid's file).

    Raises ValueError for another name, FileNotFoundError, RuntimeError when the file's keys or
    shapes differ from the net's.
    """
    if net not in SIZES:
        raise ValueError(f"unknown feature net {net!r}, expected one of {list(SIZES)}")
    if net == "mobilenet_v2":
        module: nn.Module = MobileNetFeatures(imagenet.features(net, path))
    else:
        import_torchvision()  # pytorch-fid imports it too, without looking for its operators
        state = torch.load(path, map_location="cpu", weights_only=True)
        module = InceptionFeatures(_build_inception(state))
    return module.requires_grad_(False).eval().to(device)


def _build_inception(state: dict) -> nn.Module:
    from pytorch_fid import inception

    # pytorch-fid builds the net only together with a download: it gets our checked file instead
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
