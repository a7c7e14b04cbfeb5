"""A fit that is no descent: the mean of the training faces, mixed into what is restored."""

import torch
from torch import nn

from frcore.config import Strict
from frcore.faces.batch import Faces

METHOD = {"title": "Mean face", "paper": "none", "data": "faces"}


class Settings(Strict):
    size: int = 64
    share: float = 0.1


TINY: dict = {"size": 32}


class MeanFace(nn.Module):
    """mean: 3 x S x S, in [0, 1]."""

    def __init__(self, s: Settings):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, s.size, s.size))


def build(settings: Settings) -> MeanFace:
    return MeanFace(settings)


def fit(model: MeanFace, settings: Settings, guide: dict, faces) -> None:
    total, device = torch.zeros_like(model.mean), model.mean.device
    for batch in faces.once(16, device):
        total += batch["truth"].sum(0)
    model.mean.copy_(total / len(faces))


def restore(model: MeanFace, faces: Faces, guide) -> torch.Tensor:
    share = model.settings.share
    return (1 - share) * faces.images + share * model.mean
