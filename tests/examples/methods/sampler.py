"""A sampler of many steps: a small denoiser, trained on noisy faces, and DDIM from the input on.

After Ho et al. (2006.11239) Eq. 14 and Song et al. (2010.02502) Eq. 12; the chain starts at the
degraded face, noised half-way, in the manner of DR2.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.faces.batch import Faces
from frcore.nets.losses import descend

METHOD = {"title": "Sampler", "paper": "after DR2", "data": "faces", "stochastic": True}


class Settings(Strict):
    width: int = 16
    steps: int = 10  # of the whole chain
    start: float = 0.5  # part of the chain that is walked back
    learning_rate: float = 2e-3


TINY: dict = {"width": 4, "steps": 4}


class Denoiser(nn.Module):
    """x_t, t -> the noise in it."""

    def __init__(self, s: Settings):
        super().__init__()
        self.into = nn.Conv2d(4, s.width, 3, padding=1)
        self.between = nn.Conv2d(s.width, s.width, 3, padding=1)
        self.out = nn.Conv2d(s.width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        y = F.silu(self.into(torch.cat([x, t], 1)))
        return self.out(F.silu(self.between(y)))


def signal(t: torch.Tensor) -> torch.Tensor:
    """alpha-bar of t in [0, 1]: what is left of the face."""
    return torch.cos(t * torch.pi / 2).square().clamp(1e-4, 1 - 1e-4).view(-1, 1, 1, 1)


def build(settings: Settings) -> Denoiser:
    return Denoiser(settings)


def restore(model: Denoiser, faces: Faces, guide) -> torch.Tensor:
    s, n = model.settings, len(faces)
    walked = max(1, round(s.steps * s.start))
    times = torch.linspace(s.start, 0, walked + 1).tolist()
    a = signal(faces.images.new_full((n,), times[0]))
    x = a.sqrt() * (faces.images * 2 - 1) + (1 - a).sqrt() * faces.randn(*faces.images.shape[1:])
    for now, then in itertools.pairwise(times):
        a, b = (signal(faces.images.new_full((n,), t)) for t in (now, then))
        noise = model(x, faces.images.new_full((n,), now))
        clean = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
        x = b.sqrt() * clean + (1 - b).sqrt() * noise
    faces.tell(iterations=walked)
    return (x / 2 + 0.5).clamp(0, 1)


class Trainer:
    """Mean square of the noise that is found and the noise that is there."""

    def __init__(self, model: Denoiser, settings: Settings, guide: dict):
        self.settings, self.networks = settings, {"model": model}
        adam = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        self.optimizers = {"model": adam}

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        clean = batch["truth"] * 2 - 1
        t = torch.rand(len(clean), device=clean.device)
        noise, a = torch.randn_like(clean), signal(t)
        found = self.networks["model"](a.sqrt() * clean + (1 - a).sqrt() * noise, t)
        loss = F.mse_loss(found, noise)
        descend(self.optimizers["model"], loss)
        return {"noise": loss}


make_trainer = Trainer
