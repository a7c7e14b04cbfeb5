"""A method's module and the frozen nets beside it, made in one place for training and restoring.

The guide is a mapping: role -> frozen net of another entry (METHOD's helpers), name -> pretrained
part (METHOD's assets). A method without weights of its own has one too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from frcore.frozen import emotion, identity, perceptual, stlpips
from frcore.io import checkpoint
from frcore.registry import METHODS, load_method


class Landmarks:
    """dlib's 68 landmarks of aligned faces; not differentiable."""

    def __init__(self, path: str | Path):
        import dlib

        self.predictor = dlib.shape_predictor(str(path))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x S x S in [0, 1] -> N x 68 x 2, pixels (x, y), for faces that fill the frame."""
        import dlib

        from frcore.io.images import to_uint8

        found = []
        for pixels in to_uint8(images):
            whole = dlib.rectangle(0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1)
            parts = self.predictor(pixels, whole).parts()
            found.append([[float(point.x), float(point.y)] for point in parts])
        return torch.tensor(found, device=images.device).view(len(images), -1, 2)


# name or asset -> loader(path, device); perceptual nets besides, by their asset
_PARTS: dict[str, Callable] = {
    "emotion": emotion.load,
    "identity": identity.load,
    "landmarks": lambda path, device: Landmarks(path),
    "stlpips_vgg": lambda path, device: stlpips.load("vgg", path, device),
    "stlpips_alex": lambda path, device: stlpips.load("alex", path, device),
}


def build(module: ModuleType, settings) -> nn.Module:
    """A method's network, which has its settings. Raises TypeError for what is no nn.Module."""
    model = module.build(settings)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{module.__name__}.build gave {type(model).__name__}, expected nn.Module")
    if not hasattr(model, "settings"):
        model.settings = settings
    return model


def load_guide(
    method: str,
    settings,
    helpers: Mapping[str, str | Path],
    assets: Mapping[str, str | Path],
    device: torch.device | str,
    training: bool = False,
) -> dict:
    """The frozen nets that a method leans on: {role or name: net}.

    settings: checked, of the method. helpers: {role: weights file}. assets: {asset: file}; what is
    not there is left out, and a method that needs it says so. In training a helper's file that
    holds a discriminator gives {role}_discriminator too.
    Raises ValueError for a part that has no loader, WeightsError for a file that does not fit.
    """
    guide: dict = {}
    for role, path in helpers.items():
        networks, card = checkpoint.load_weights(path)
        guide[role] = frozen(networks, card, "model", path, device)
        helper = load_method(card["method"])
        if training and "discriminator" in networks and hasattr(helper, "build_discriminator"):
            net = frozen(networks, card, "discriminator", path, device)
            guide[f"{role}_discriminator"] = net
    row, module = METHODS[method], load_method(method)
    for name, asset in row.parts(settings.model_dump(), training).items():
        if asset in assets:
            guide[name] = load_part(name, asset, assets[asset], device, module)
    return guide


def load_part(name: str, asset: str, path: str | Path, device, module: ModuleType):
    """One pretrained part. A method's TAPS and PERCEPTUAL_SIDE say what it reads of such a net."""
    if asset in perceptual.NETS:
        taps = getattr(module, "TAPS", {}).get(asset)
        side = getattr(module, "PERCEPTUAL_SIDE", None)
        return perceptual.load(asset, path, device, taps=taps, min_side=side)
    loader = _PARTS.get(name) or _PARTS.get(asset)
    if loader is None:
        known = ", ".join(["perceptual", *_PARTS, *perceptual.NETS])
        raise ValueError(f"METHOD: no pretrained part {name!r} (known: {known})")
    return loader(path, device)


def frozen(networks: Mapping, card: Mapping, key: str, path, device) -> nn.Module:
    """Network `key` of a weights file, in evaluation mode."""
    module = load_method(card["method"])
    settings = module.Settings(**card["settings"])
    net = build(module, settings) if key == "model" else module.build_discriminator(settings)
    checkpoint.load_strict(net, networks[key], f"{path}: {key}")
    return net.to(device).eval().requires_grad_(False)
