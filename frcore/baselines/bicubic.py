"""Bicubic: no restoration at all, the reference line of every table.

Degraded faces are stored at the size of the truth, enlarged by the last step of their recipe
(bicubic in the papers' recipes), so there is nothing left to do.

N batch, H W image.
"""

from frcore.config import Strict


class Settings(Strict):
    """There is nothing to set."""


TINY: dict = {}


def build(settings: Settings) -> None:
    """Nothing is trained."""
    return None


def restore(model, degraded, guide, generator):
    """degraded N x 3 x H x W in [0, 1] -> the same."""
    return degraded
