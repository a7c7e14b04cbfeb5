"""Luma, hue and the colour operations of a jitter."""

from collections.abc import Sequence

import torch

from frcore.degrade.jpeg import LUMA


def luma(images: torch.Tensor) -> torch.Tensor:
    """N x 3 x H x W -> N x 1 x H x W, BT.601."""
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def shift_hue(images: torch.Tensor, turns: float | torch.Tensor) -> torch.Tensor:
    """Turn the hue by `turns` of a full circle at constant HSV saturation and value.

    N x 3 x H x W in [0, 1] -> same; turns: one number, or N x 1 x 1.
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


def jitter(
    images: torch.Tensor, name: str, amounts: Sequence[float], sides: Sequence[int]
) -> torch.Tensor:
    """One photometric operation on N x 3 x S x S in [0, 1]; definitions of torchvision.

    amounts: one an image. sides: how much of the canvas each image fills, from the upper left.
    """
    amount = torch.tensor(amounts, dtype=torch.float64).to(images.dtype).to(images.device)
    amount = amount[:, None, None, None]
    if name == "brightness":
        changed = images * amount
    elif name == "hue":
        changed = shift_hue(images, amount[:, 0])
    else:
        gray = luma(images)
        if name == "contrast":
            gray = _means(gray, sides)
        changed = gray + amount * (images - gray)
    return changed.clamp(0, 1)


def _means(planes: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """N x 1 x S x S -> N x 1 x 1 x 1, of what each image fills."""
    if min(sides) == planes.shape[-1]:
        return planes.mean(dim=(2, 3), keepdim=True)
    means = [
        plane[:, :side, :side].mean(dim=(1, 2), keepdim=True) for plane, side in zip(planes, sides)
    ]
    return torch.stack(means)
