"""A net with sides of its own: it takes 16 px and gives 64 px (x4 in the net)."""

import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.faces.batch import Faces
from frcore.nets.losses import supervised

METHOD = {"title": "x4 in the net", "paper": "after Shi et al., 1609.05158", "data": "paired"}


class Settings(Strict):
    taken: int = 16  # px
    factor: int = 4
    width: int = 16
    learning_rate: float = 2e-3


TINY: dict = {"width": 4}


class Upscaler(nn.Module):
    """Features at the small side, then pixels shuffled into the large one, beside cubic."""

    def __init__(self, s: Settings):
        super().__init__()
        self.factor = s.factor
        self.net = nn.Sequential(
            nn.Conv2d(3, s.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(s.width, 3 * s.factor**2, 3, padding=1),
            nn.PixelShuffle(s.factor),
        )

    def forward(self, small: torch.Tensor) -> torch.Tensor:
        return F.interpolate(small, scale_factor=self.factor, mode="bicubic") + self.net(small)


def sides(settings: Settings) -> tuple[int, int]:
    return settings.taken, settings.taken * settings.factor


def build(settings: Settings) -> Upscaler:
    return Upscaler(settings)


def restore(model: Upscaler, faces: Faces, guide) -> torch.Tensor:
    return model(faces.images).clamp(0, 1)


make_trainer = supervised(F.l1_loss)
