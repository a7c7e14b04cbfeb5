"""Layers of torchvision's ImageNet networks from their weights: `features`, without the classifier.

Two kinds of file hold them: torchvision's own, of the whole network, and one of the features alone
(safetensors; frcore.io.converters). The names are torchvision's in both.
"""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from frcore.frozen.torchvision_cpu import import_torchvision

NETS = ("alexnet", "vgg16", "vgg19", "mobilenet_v2")


def features(net: str, path: str | Path) -> nn.Sequential:
    """`features` of torchvision's `net`, one of NETS, on the CPU.

    Raises ValueError for another net, FileNotFoundError, RuntimeError when the file's keys or
    shapes differ from the net's.
    """
    if net not in NETS:
        raise ValueError(f"unknown ImageNet net {net!r}, expected one of {list(NETS)}")
    own = {
        key.removeprefix("features."): value
        for key, value in _state(path).items()
        if key.startswith("features.")
    }
    models = import_torchvision().models
    with torch.device("meta"):  # no memory and no random numbers for what the file replaces
        layers = getattr(models, net)(weights=None).features
    try:
        layers.load_state_dict(own, strict=True, assign=True)
    except RuntimeError as error:
        raise RuntimeError(f"{path}: not {net}'s features: {error}") from None
    return layers


def _state(path: str | Path) -> dict[str, torch.Tensor]:
    if Path(path).suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise RuntimeError(f"{path} is damaged: {error}") from None
