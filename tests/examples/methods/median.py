"""A filter: one file and one entry, nothing is trained."""

import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.faces.batch import Faces

METHOD = {"title": "Median filter", "paper": "Tukey, Exploratory Data Analysis, 1977"}


class Settings(Strict):
    side_px: int = 3  # odd


TINY: dict = {}


class Median(nn.Module):
    """Median of a square of pixels, channel by channel."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.side = settings.side_px

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n, c, h, w = images.shape
        around = F.pad(images, [self.side // 2] * 4, mode="reflect")
        patches = F.unfold(around, self.side).view(n, c, self.side**2, h, w)
        return patches.median(2).values


def build(settings: Settings) -> Median:
    return Median(settings)


def restore(model: Median, faces: Faces, guide) -> torch.Tensor:
    return model(faces.images)
