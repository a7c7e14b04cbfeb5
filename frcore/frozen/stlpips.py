"""ST-LPIPS: a perceptual distance that tolerates small shifts.

A. Ghildyal, F. Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022: LPIPS (Zhang et al.,
CVPR 2018, eq. 1) on networks whose strided layers are blur-pooled (Zhang, "Making Convolutional
Networks Shift-Invariant Again", ICML 2019) and that were trained for the distance from the start.
Written from the names and shapes in the weights files and the sizes that the authors' package
shows when it runs; tests compare with distances that it gave.
It is a distance, not a good loss, and its features are not ImageNet features.

N batch, C channels, H height, W width.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# Each net in five parts; the output of every part is compared.
# cK>C = convolution of kernel K to C channels, r = ReLU, pK = max pooling of K at stride 1,
# b = blur and keep every second pixel. The running number of a layer is its name in the file.
_PARTS = {
    "vgg": (
        "c3>64 r c3>64 r",
        "p2 b c3>128 r c3>128 r",
        "p2 b c3>256 r c3>256 r c3>256 r",
        "p2 b c3>512 r c3>512 r c3>512 r",
        "p2 b c3>512 r c3>512 r c3>512 r",
    ),
    "alex": ("c11>64 b r", "p3 b c5>192 r", "p3 b c3>384 r", "c3>256 r", "c3>256 r"),
}
_CONV_PADDING = {3: 1, 5: 2, 11: 2}  # by kernel
_MIN_SIDE = {"vgg": 18, "alex": 21}  # pixels; below, a reflection is wider than what it reflects
NETS = tuple(_PARTS)


class _BlurPool(nn.Module):
    """Binomial 3 x 3 blur, every second pixel kept; two pixels of reflection on each side.

    That is one pixel more than the filter needs: even sizes n give n / 2 + 1.
    """

    filt: torch.Tensor

    def __init__(self, channels: int):
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(line, line).expand(channels, 1, 3, 3).clone())

    def forward(self, x):
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), self.filt, stride=2, groups=x.shape[1])


class _Scaling(nn.Module):
    """[-1, 1] -> about zero mean, unit variance; with LPIPS's own numbers out of the file."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.shift) / self.scale


class _Head(nn.Module):
    """One weight a channel; the file names it `model.1`, after the dropout of training."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x):
        return self.model(x)


class ShiftTolerantLpips(nn.Module):
    """Frozen distance between images; weights come from `load`."""

    def __init__(self, net: str):
        """Raises ValueError for a net that is not in NETS."""
        super().__init__()
        if net not in _PARTS:
            raise ValueError(f"unknown ST-LPIPS net {net!r}, expected one of {list(_PARTS)}")
        self.name = net
        self.min_side = _MIN_SIDE[net]
        self.scaling_layer = _Scaling()
        self.net = nn.Module()
        number, channels = 0, 3
        for part, words in enumerate(_PARTS[net]):
            layers = nn.Sequential()
            for word in words.split():
                layer, channels = _layer(word, channels)
                layers.add_module(str(number), layer)
                number += 1
            self.net.add_module(f"slice{part + 1}", layers)
            self.add_module(f"lin{part}", _Head(channels))
        self.requires_grad_(False)
        self.eval()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Two batches N x 3 x H x W in [0, 1] -> N distances, 0 for equal images.

        Raises ValueError for other or unequal shapes, or sides below `min_side`.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
            raise ValueError(
                f"expected two equal N x 3 x H x W, got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        return self.between(self.features(a), self.features(b))

    def features(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """N x 3 x H x W in [0, 1] -> output of each of the five parts, of unit length a position.

        One after the other: who compares them at once need not hold them all.
        Raises ValueError for sides below `min_side`.
        """
        sides = tuple(images.shape[2:])
        if min(sides) < self.min_side:
            raise ValueError(f"sides must be at least {self.min_side} px, got {sides}")
        x = self.scaling_layer(2 * images - 1)
        x = x.contiguous(memory_format=torch.channels_last)  # 1.15 times as fast
        for part in range(5):
            x = getattr(self.net, f"slice{part + 1}")(x)
            yield _unit(x)

    def between(self, a: Iterable[torch.Tensor], b: Iterable[torch.Tensor]) -> torch.Tensor:
        """Two results of `features` -> N distances."""
        parts = []
        for part, (x, y) in enumerate(zip(a, b, strict=True)):
            head = getattr(self, f"lin{part}")
            parts.append(head((x - y).square()).mean((1, 2, 3)))
        return torch.stack(parts).sum(0)

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The same as calling the module."""
        return self(a, b)


def _layer(word: str, channels: int) -> tuple[nn.Module, int]:
    """One word of _PARTS -> (layer, channels after it)."""
    if word == "r":
        return nn.ReLU(inplace=True), channels  # on what a convolution or a blur made
    if word == "b":
        return _BlurPool(channels), channels
    if word.startswith("p"):
        return nn.MaxPool2d(int(word[1:]), stride=1), channels
    kernel, wide = (int(part) for part in word[1:].split(">"))
    return nn.Conv2d(channels, wide, kernel, padding=_CONV_PADDING[kernel]), wide


def _unit(x: torch.Tensor) -> torch.Tensor:
    # LPIPS adds its 1e-10 to the norm; the one under the root keeps the gradient of an all-zero
    # position finite and is too small to move a float32 distance
    return x / ((x.square().sum(1, keepdim=True) + 1e-24).sqrt() + 1e-10)


def load(net: str, path: str | Path, device: str | torch.device = "cpu") -> ShiftTolerantLpips:
    """ST-LPIPS on `net` ("vgg", "alex") from its file (vgg_shift_tolerant.pth, ...).

    Raises ValueError for an unknown net, FileNotFoundError, RuntimeError when the file's keys or
    shapes differ from the net's.
    """
    module = ShiftTolerantLpips(net)
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state, strict=True)
    return module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
