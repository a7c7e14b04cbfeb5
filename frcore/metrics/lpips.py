"""Learned perceptual distances; one float64 value an image, lower is nearer.

The nets compute in float32: a value may differ by about 1e-6 between batch sizes and machines.

N batch, H height, W width.
"""

import contextlib
import hashlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from frcore.frozen import imagenet
from frcore.io.images import check_images
from frcore.metrics import metric
from frcore.metrics.parts import in_parts

PIXELS = 16 * 64 * 64  # of images that a net sees at a time
_LPIPS_NETS = {"alex": "alexnet", "vgg": "vgg16"}  # lpips's word -> torchvision's


def load_lpips(net: str, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """LPIPS 0.1 of the lpips package on "alex" or "vgg", without its download.

    path: ImageNet weights of AlexNet or VGG16, torchvision's own or their features alone
    (frcore.frozen.imagenet); the linear heads are in the package.
    Raises ValueError for another net, FileNotFoundError, RuntimeError for a file of another net.
    """
    if net not in _LPIPS_NETS:
        raise ValueError(f"unknown LPIPS net {net!r}, expected one of {list(_LPIPS_NETS)}")
    features = imagenet.features(_LPIPS_NETS[net], path).state_dict()
    import lpips

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces itself, and uses torchvision's old words
        module = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    # lpips cuts torchvision's `features` into slices and keeps the layers' numbers as names
    state = {}
    for name in module.net.state_dict():
        _, number, kind = name.split(".")
        state[name] = features[f"{number}.{kind}"]
    module.net.load_state_dict(state, strict=True)
    return module.requires_grad_(False).eval().to(device)


class PackageLpips(nn.Module):
    """The lpips package's distance in two steps, so that the true images are seen once."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """N x 3 x H x W in [0, 1] -> output of each part, of unit length a position."""
        from lpips import normalize_tensor

        x = self.net.scaling_layer(2 * images - 1)
        x = x.contiguous(memory_format=torch.channels_last)
        for part in range(self.net.L):
            x = getattr(self.net.net, f"slice{part + 1}")(x)
            yield normalize_tensor(x)

    def between(self, a: Iterable[torch.Tensor], b: Iterable[torch.Tensor]) -> torch.Tensor:
        """Two results of `features` -> N distances."""
        heads = cast(nn.ModuleList, self.net.lins)
        parts = [head((x - y) ** 2).mean((2, 3)) for head, x, y in zip(heads, a, b, strict=True)]
        return torch.stack(parts).sum(0).flatten()


class Compared(nn.Module):
    """A distance that keeps the features of the last true images: many sets share one truth.

    net: with `features` and `between`, as `PackageLpips`.
    """

    KEPT_BYTES = 160_000_000  # of 64 images of 64 px, which the metrics stage reads at a time

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.known: OrderedDict[tuple, list[torch.Tensor]] = OrderedDict()

    def forward(self, restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Both N x 3 x H x W in [0, 1] -> N distances."""
        pixels = truth.detach().cpu().contiguous().numpy()
        key = (truth.shape, hashlib.sha256(pixels.tobytes()).digest())
        if key not in self.known:
            self.known[key] = list(self.net.features(truth))
        self.known.move_to_end(key)
        while len(self.known) > 1 and self._bytes() > self.KEPT_BYTES:
            self.known.popitem(last=False)
        return self.net.between(self.net.features(restored), self.known[key])

    def _bytes(self) -> int:
        return sum(part.nbytes for parts in self.known.values() for part in parts)


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

    net: of `load_lpips`, as it is or in `Compared`.
    Raises ValueError for other or unequal shapes and ranges.
    """
    if isinstance(net, Compared):
        return _values(net, restored, truth)
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


@torch.inference_mode()
def _values(distance, restored: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    check_images(restored, "restored")
    check_images(truth, "truth")
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored and truth differ in shape: {tuple(restored.shape)}, {tuple(truth.shape)}"
        )
    found = in_parts(lambda x, y: distance(x, y).flatten(), PIXELS, restored, truth)
    return found.double().cpu().numpy()
