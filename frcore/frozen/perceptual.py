"""ImageNet feature networks for perceptual losses: VGG16, VGG19, MobileNetV2.

Structure and weights are torchvision's. `load` gives a frozen module: gradients flow to the images
only, and nothing is computed after the last tap that was asked for.

Taps of VGG19 and VGG16 carry the names of the papers: `conv5_4` is before its ReLU, `relu3_4` is
after. Among them are GFP-GAN's five (conv1_2, conv2_2, conv3_4, conv4_4, conv5_4) and the three
that PSFR-GAN's code really compares: its ReLUs work in place on the tapped tensors, so the tensors
that it takes after conv3_4, conv4_4 and conv5_4 are relu3_4, relu4_4 and conv5_4 here.
No ReLU works in place here.

N batch, C channels, H height, W width, h and w height and width of a tap.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from frcore.frozen import imagenet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# convolutions of each of the five blocks
_VGG_BLOCKS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}
_MOBILENET_TAPS = {f"features{index}": index for index in (1, 3, 6, 10, 13)}
# A face of 64 px is too small for nets trained at 224: MobileNetV2 at 128 recovers an image from
# its features far better than at 64, and PSFR-GAN's code enlarges to 224 before VGG.
_MIN_SIDE = {"mobilenet_v2": 128, "vgg19": 224, "vgg16": 224}
DEFAULT_TAPS = {
    "mobilenet_v2": tuple(_MOBILENET_TAPS),
    "vgg19": ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}
NETS = tuple(DEFAULT_TAPS)


def tap_names(net: str) -> dict[str, int]:
    """Tap name -> index in torchvision's `features` of that net; in the order of computation.

    Raises ValueError for an unknown net.
    """
    _check_net(net)
    if net == "mobilenet_v2":
        return dict(_MOBILENET_TAPS)
    names = {}
    index = 0
    for block, n_convs in enumerate(_VGG_BLOCKS[net], start=1):
        for conv in range(1, n_convs + 1):
            names[f"conv{block}_{conv}"] = index
            names[f"relu{block}_{conv}"] = index + 1
            index += 2
        names[f"pool{block}"] = index
        index += 1
    return names


class Perceptual(nn.Module):
    """Frozen feature network; `forward` gives the tapped features by name."""

    def __init__(self, net: str, features: nn.Sequential, taps: Sequence[str], min_side: int):
        """`features`: torchvision's layers; `taps`: names out of `tap_names(net)`.

        Raises ValueError for an unknown or missing tap.
        """
        super().__init__()
        known = tap_names(net)
        unknown = [tap for tap in taps if tap not in known]
        if unknown or not taps:
            raise ValueError(f"{net}: unknown taps {unknown}, expected some of {list(known)}")
        self.net = net
        self.taps = tuple(sorted(set(taps), key=known.__getitem__))
        self.min_side = min_side
        self._indices = {known[tap]: tap for tap in self.taps}
        layers = list(features)[: max(self._indices) + 1]
        # in place, the layer after a tap would change the tapped tensor
        for layer in layers:
            for module in layer.modules():
                if isinstance(module, nn.ReLU | nn.ReLU6):
                    module.inplace = False
        for layer in layers:
            fold_normalisation(layer)
        self.layers = nn.ModuleList(layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True):
        """Stays in evaluation mode: a method's `.train()` must not move batch statistics."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W in [0, 1] -> {tap: N x C x h x w}, in the order of computation.

        Images with a side below `min_side` are enlarged first (bilinear, aspect kept). The range is
        not checked: a generator's outputs may leave [0, 1] during training.
        Raises ValueError for another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected N x 3 x H x W, got {tuple(images.shape)}")
        x = (enlarge(images, self.min_side) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)  # a training step of RDFR: 1.3x faster
        found = {}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._indices:
                found[self._indices[index]] = x
        return found


def fold_normalisation(net: nn.Module) -> None:
    """Put batch normalisations of a frozen net into the convolutions before them.

    In the net's sequences, where one follows the other; the same function up to rounding.
    """
    for parent in [*net.modules()]:
        if not isinstance(parent, nn.Sequential):
            continue
        for (name, conv), (after, norm) in pairwise([*parent.named_children()]):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv.eval(), norm.eval()))
                setattr(parent, after, nn.Identity())


def enlarge(images: torch.Tensor, min_side: int) -> torch.Tensor:
    """N x C x H x W -> the same, a shorter side below `min_side` brought up to it (bilinear)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    if short >= min_side:
        return images
    size = (round(height * min_side / short), round(width * min_side / short))
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def load(
    net: str,
    path: str | Path,
    device: str | torch.device = "cpu",
    taps: Sequence[str] | None = None,
    min_side: int | None = None,
) -> Perceptual:
    """Feature network `net` ("mobilenet_v2", "vgg19", "vgg16") from ImageNet weights, torchvision's
    own file or one of the features alone (frcore.frozen.imagenet).

    taps: names out of `tap_names(net)`; None means DEFAULT_TAPS.
    min_side: pixels to which smaller images are enlarged; None means 128 (MobileNetV2) or 224
    (VGG), 0 means never.
    Raises ValueError for an unknown net or tap, FileNotFoundError, RuntimeError when the file's
    keys or shapes differ from the net's.
    """
    _check_net(net)
    features = imagenet.features(net, path)
    taps = DEFAULT_TAPS[net] if taps is None else taps
    min_side = _MIN_SIDE[net] if min_side is None else min_side
    return Perceptual(net, features, taps, min_side).to(device)


def feature_distance(found: dict, wanted: dict) -> torch.Tensor:
    """Mean over taps and positions of ||u - v||^2, u and v unit vectors over channels -> N values.

    LPIPS without its learned weights (Zhang et al. 2018, eq. 1 with w = 1), averaged over taps.
    Raises ValueError when the two hold different taps.
    """
    if list(found) != list(wanted):
        raise ValueError(f"taps differ: {list(found)} and {list(wanted)}")
    per_tap = []
    for tap, feature in found.items():
        difference = _unit(feature) - _unit(wanted[tap])
        per_tap.append(difference.square().sum(1).mean((1, 2)))
    return torch.stack(per_tap).mean(0)


def _unit(feature: torch.Tensor) -> torch.Tensor:
    # eps under the root: at an all-zero position sqrt would have an infinite gradient
    return feature * torch.rsqrt(feature.square().sum(1, keepdim=True) + 1e-10)


def _check_net(net: str) -> None:
    if net not in _MIN_SIDE:
        raise ValueError(f"unknown perceptual net {net!r}, expected one of {list(_MIN_SIDE)}")
