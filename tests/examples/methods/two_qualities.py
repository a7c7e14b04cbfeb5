"""Unpaired learning from two sets, in stages, with several networks: the frame of LCQS.

Stage 1 learns an encoder and a decoder of good faces; stage 2 lets them rest and learns the shift
that brings codes of bad faces to where a critic of codes takes them for good ones.
"""

import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.faces.batch import Faces
from frcore.nets.losses import descend

METHOD = {"title": "Two qualities", "paper": "after LCQS", "data": "two_sets"}


class Settings(Strict):
    width: int = 8
    reconstruction_weight: float = 1.0
    shift_weight: float = 0.0  # of the critic's verdict
    learning_rate: float = 2e-3


TINY: dict = {"width": 4}


class Model(nn.Module):
    """Face -> code -> shifted code -> face."""

    def __init__(self, s: Settings):
        super().__init__()
        self.encoder = nn.Conv2d(3, s.width, 4, stride=4)
        self.shift = nn.Conv2d(s.width, s.width, 1)
        self.decoder = nn.ConvTranspose2d(s.width, 3, 4, stride=4)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        code = self.encoder(images)
        return self.decoder(code + self.shift(code))


def build(settings: Settings) -> Model:
    return Model(settings)


def restore(model: Model, faces: Faces, guide) -> torch.Tensor:
    return model(faces.images).clamp(0, 1)


class Trainer:
    """The model and a critic of codes; who learns when is the configuration's matter."""

    def __init__(self, model: Model, settings: Settings, guide: dict):
        self.settings = settings
        critic = nn.Sequential(nn.Conv2d(settings.width, 1, 1)).to(model.shift.weight.device)
        self.networks = {"model": model, "critic": critic}
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
            for name, net in self.networks.items()
        }

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        s, model, critic = self.settings, self.networks["model"], self.networks["critic"]
        good, bad = model.encoder(batch["truth"]), model.encoder(batch["degraded"])
        shifted = bad + model.shift(bad)
        losses = {
            "reconstruction": F.mse_loss(model.decoder(good), batch["truth"]),
            "shift": F.softplus(-critic(shifted)).mean(),
        }
        total = (
            s.reconstruction_weight * losses["reconstruction"] + s.shift_weight * losses["shift"]
        )
        descend(self.optimizers["model"], total)
        real, fake = critic(good.detach()), critic(shifted.detach())
        losses["critic"] = F.softplus(-real).mean() + F.softplus(fake).mean()
        descend(self.optimizers["critic"], losses["critic"])
        return losses


make_trainer = Trainer
