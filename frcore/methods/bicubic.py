"""Bicubic: no restoration at all, the reference line of every table.

Degraded faces are stored at the size of the truth, enlarged by the last step of their recipe
(bicubic in the papers' recipes), so there is nothing left to do.

N batch, H W image.
"""

from torch import nn

from frcore.config import Strict
from frcore.faces.batch import Faces

METHOD = {
    "role": "baseline",
    "title": "Bicubic",
    "paper": "(the degraded face as it is after enlargement)",
    "data": "none",
}


class Settings(Strict):
    """There is nothing to set."""


TINY: dict = {}


def build(settings: Settings) -> nn.Module:
    """A net that leaves images alone."""
    return nn.Identity()


def restore(model: nn.Module, faces: Faces, guide):
    """Faces N x 3 x H x W in [0, 1] -> the same."""
    return model(faces.images)
