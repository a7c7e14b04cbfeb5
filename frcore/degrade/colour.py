"""Luma, hue and the colour operations of a jitter."""

import torch

from frcore.degrade.jpeg import LUMA


def luma(images: torch.Tensor) -> torch.Tensor:
    """N x 3 x H x W -> N x 1 x H x W, BT.601."""
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def shift_hue(images: torch.Tensor, turns: float) -> torch.Tensor:
    """Turn the hue by `turns` of a full circle at constant HSV saturation and value.

    N x 3 x H x W in [0, 1] -> same.
    """
    value, _ = images.max(dim=1)
    spread = value - images.min(dim=1).values
    red, green, blue = images.unbind(1)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turns
    # the closed form of HSV -> RGB: one triangle wave per channel
    channels = []
    for offset in (5, 3, 1):
        k = (offset + sector) % 6
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def jitter(images: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    """One photometric operation on 1 x 3 x H x W in [0, 1]; definitions of torchvision."""
    if name == "brightness":
        changed = images * amount
    elif name == "hue":
        changed = shift_hue(images, amount)
    else:
        gray = luma(images)
        if name == "contrast":
            gray = gray.mean(dim=(2, 3), keepdim=True)
        changed = gray + amount * (images - gray)
    return changed.clamp(0, 1)
