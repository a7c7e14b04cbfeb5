"""StyleGAN2 as a model of the workflow: the prior over faces that other methods stand on.

Network and paper: frcore/nets/stylegan2.py. Training follows the paper's configuration F (section
2-3, appendix B): logistic loss, R1 and path length regularised lazily, style mixing, an averaged
generator; with adaptive augmentation (frcore/nets/augment.py) when the set is small.

N batch, C channels, R side, L rows of W+, D length of w. Images of the network are in [-1, 1].
"""

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from frcore.config import Strict
from frcore.config.types import (
    Betas,
    Count,
    Depth,
    Rate,
    Share,
    Side,
    Weight,
    Width,
    at_least_one_channel,
)
from frcore.nets.adversary import Adversary
from frcore.nets.augment import Controller, augment, mirrored
from frcore.nets.losses import descend, mean_over_processes, path_lengths, processes
from frcore.nets.stylegan2 import Discriminator, Generator, lazy_adam

METHOD = {
    "role": "helper",
    "title": "StyleGAN2",
    "paper": "Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, "
    "arXiv 1912.04958",
    "data": "faces",
}


class Settings(Strict):
    """Defaults are the paper's configuration F; `w_dim` is the length of z too."""

    size: Side = 64
    w_dim: Width = 512
    mapping_layers: Depth = 8
    c_base: Width = 32768  # channels at side r: min(c_base / r, c_max)
    c_max: Width = 512
    group: Width = 4  # images whose standard deviation the discriminator sees
    learning_rate: Rate = 0.002
    betas: Betas = (0.0, 0.99)
    r1_gamma_weight: Weight = 10.0  # gamma of R1
    r1_every: Count = 16  # steps
    path_weight: Weight = 2.0
    path_every: Count = 4  # steps
    path_shrink: Count = 2  # path length is taken on this part of the batch
    mixing: Share = 0.9  # probability of a second z
    mirror: bool = True  # flip half of the real faces
    score_samples: Count = 1000  # for the curve of Frechet distances; the papers take 50,000
    # of E sign D(x); 0.6 is the paper's; None: no augmentation
    ada_target: Annotated[float, Field(gt=0, lt=1)] | None = None
    # images in which p can go from 0 to 1
    ada_images: Annotated[float, Field(gt=0, le=1e12)] = 500_000

    @model_validator(mode="after")
    def _wide_enough(self):
        return at_least_one_channel(self, "c_base")


TINY = {"size": 16, "w_dim": 16, "mapping_layers": 2, "c_base": 128, "c_max": 16}
PAPER = {"size": 1024}


def build(settings: Settings) -> Generator:
    """The generator. Raises ValueError for a side that is no power of two."""
    s = settings
    return Generator(s.size, s.w_dim, s.mapping_layers, s.c_base, s.c_max)


def build_discriminator(settings: Settings) -> Discriminator:
    """The discriminator that belongs to it."""
    s = settings
    return Discriminator(s.size, s.c_base, s.c_max, s.group)


@torch.no_grad()
def sample(
    model: Generator, n: int, generator: torch.Generator, truncation: float = 1.0, batch: int = 50
) -> torch.Tensor:
    """`n` faces N x 3 x R x R in [0, 1], with the fixed noise; z is drawn from `generator`."""
    z = model.draw(n, generator)
    images = [model(part, truncation, "fixed") for part in z.split(batch)]
    return (torch.cat(images) / 2 + 0.5).clamp(0, 1)


class Trainer:
    """One step of generator and discriminator; every few steps one of each regulariser."""

    def __init__(self, model: Generator, settings: Settings, guide: dict):
        s = self.settings = settings
        device = model.mapping.w_avg.device
        discriminator = build_discriminator(s)
        discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks: dict[str, Any] = {"model": model, "discriminator": discriminator}
        self.optimizers = {
            "model": lazy_adam(model.parameters(), s.learning_rate, s.betas, s.path_every),
            "discriminator": lazy_adam(
                discriminator.parameters(), s.learning_rate, s.betas, s.r1_every
            ),
        }
        self.adversary = Adversary(
            discriminator, self.optimizers["discriminator"], augment=self._augmented
        )
        self.path_mean = torch.zeros((), device=device)  # a of Eq. 4
        self.ada = None if s.ada_target is None else Controller(s.ada_target, s.ada_images)

    def extra(self) -> dict:
        """What a resumed run needs besides networks and optimizers."""
        return {"path_mean": self.path_mean, "ada": self.ada.state() if self.ada else {}}

    def load_extra(self, extra: dict) -> None:
        """Put back what `extra` gave."""
        self.path_mean = extra["path_mean"]
        if self.ada:
            self.ada.load_state(extra["ada"])

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        """One update. `batch`: truth N x 3 x R x R in [0, 1], step (how many there were before)."""
        s, real, step = self.settings, batch["truth"] * 2 - 1, batch["step"]
        if s.mirror:
            real = mirrored(real)
        losses = self.generator_step(len(real))
        if s.path_weight and step % s.path_every == 0:
            losses |= self.path_step(max(len(real) // s.path_shrink, 1))
        losses |= self.discriminator_step(real)
        losses |= self.r1_step(real, step)
        if self.ada:
            sign = mean_over_processes(losses["sign_real"])
            self.ada.update(sign, len(real) * processes())
            losses["ada_p"] = torch.tensor(self.ada.p)
        return losses

    def generator_step(self, n: int) -> dict[str, torch.Tensor]:
        """Non-saturating loss on `n` samples."""
        g = self.networks["model"]
        loss = self.adversary.fool(g.synthesis(self._ws(n, track=True)))
        descend(self.optimizers["model"], loss)
        return {"generator": loss}

    def path_step(self, n: int) -> dict[str, torch.Tensor]:
        """Path length regularisation on `n` samples (Eq. 4), for the steps without it too."""
        ws = self._ws(n)
        lengths = path_lengths(self.networks["model"].synthesis(ws), ws)
        self.path_mean = self.path_mean.lerp(mean_over_processes(lengths.mean()), 0.01)
        penalty = (lengths - self.path_mean).square().mean()
        descend(
            self.optimizers["model"], self.settings.path_weight * self.settings.path_every * penalty
        )
        return {"path_penalty": penalty, "path_length": self.path_mean}

    def discriminator_step(self, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logistic loss on real images N x 3 x R x R in [-1, 1] and as many samples."""
        with torch.no_grad():
            fake = self.networks["model"].synthesis(self._ws(len(real)))
        loss, logits = self.adversary.learn(real, fake)
        return {"discriminator": loss, "sign_real": logits.detach().sign().mean()}

    def r1_step(self, real: torch.Tensor, step: int = 0) -> dict[str, torch.Tensor]:
        """R1 on real images in every `r1_every`-th step, for those without it too.

        The gradient is that of the image before augmentation and flows through it.
        """
        s = self.settings
        return self.adversary.penalise(real, s.r1_gamma_weight, s.r1_every, step)

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        return augment(images, self.ada.p) if self.ada else images

    def _ws(self, n: int, track: bool = False) -> torch.Tensor:
        """W+ of `n` random faces, some of them mixed from two."""
        g, s = self.networks["model"], self.settings
        z1, z2 = g.draw(n), g.draw(n)
        where = z1.device
        crossover = torch.randint(1, g.rows, (n,), device=where)
        crossover[torch.rand(n, device=where) >= s.mixing] = g.rows
        ws = g.mix(z1, z2, crossover)
        if track:
            g.mapping.track(mean_over_processes(ws[:, 0].mean(0, keepdim=True)))
        return ws


def make_trainer(model: Generator, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop."""
    return Trainer(model, settings, guide)
