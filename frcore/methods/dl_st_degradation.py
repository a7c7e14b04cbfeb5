"""Degradation learning of DL-ST: a face prior and its trained twin, which together make pairs.

Paper: Cheikh Sidiya, Xu, Xu, Li, "Degradation Learning and Skip-Transformer for Blind Face
Restoration", Frontiers in Signal Processing 3:1106465, 2023, section 3.2 (figure 1, Eq. 1-4). No
code was published. Two StyleGAN2 generators start from one prior and share its mapping; red stays
as it is and makes the clean face y, green learns to make y^, the same face as a bad photograph.

Where the paper is taken otherwise than printed, or leaves something open:
- Eq. 4 is the saturating form and weighs gamma once more than Eq. 1. Here softplus(-D(y^)), once.
- Eq. 2 and 3 are mean squares; phi of Eq. 3 sees 16 x 16 px at every size (64-fold shrunk from
  1024 px). Its "18th feature layer" is relu3_4, the last of VGG19's first 18; of VGG16, which
  packages ship, it is the last of the same block, of MobileNetV2 the block with that stride, 4.
- "the early layers" of the discriminator are fromRGB and its first blocks (`frozen_blocks`).
- red and green see the same noise maps, or hair and skin would differ in every pair; one z a face,
  no style mixing. All of green's weights learn, those of its styles and noise included.
- R1 with the prior's gamma, no path length. Truncation 1 in training, 0.8 when pairs are made.
- real faces are mirrored at random, as those that the prior learnt from (`mirror`). A few hundred
  are few for a discriminator (the paper has 30,000): it learns them by heart and asks for their
  backgrounds before it asks for blur. It can be shown all images, real or made, moved at random by
  whole pixels, which leaves colour, blur and grain as they are (`shift`).

N batch, R side, D length of z and w. Images of the networks are in [-1, 1].
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import model_validator
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.config.types import (
    Betas,
    Count,
    Depth,
    Entry,
    Rate,
    SameAs,
    Side,
    Weight,
    Whole,
    Width,
    at_least_one_channel,
)
from frcore.nets.adversary import Adversary
from frcore.nets.augment import mirrored, shift
from frcore.nets.losses import descend, perceptual_of
from frcore.nets.stylegan2 import Generator, Synthesis, begin_at_prior, lazy_adam

METHOD = {
    "title": "DL-ST's degradation",
    "paper": "Cheikh Sidiya et al., Degradation Learning and Skip-Transformer for Blind Face "
    "Restoration, Frontiers in Signal Processing 3:1106465, 2023",
    "data": "unpaired",
    "training_helpers": ["prior"],
    "training_assets": ["perceptual"],
}

TAPS = {  # phi of Eq. 3
    "vgg19": ("relu3_4",),
    "vgg16": ("relu3_3",),  # the last of the same block
    "mobilenet_v2": ("features3",),
}
CONTENT_SIDE = 16  # of the images that phi sees
PERCEPTUAL_SIDE = 0  # phi sees them as small as they are


class Settings(Strict):
    """Defaults are the paper's weights and rates; size to c_max are those of the prior."""

    size: Annotated[Side, SameAs("prior")] = 64
    w_dim: Annotated[Width, SameAs("prior")] = 512
    mapping_layers: Annotated[Depth, SameAs("prior")] = 8
    c_base: Annotated[Width, SameAs("prior")] = 32768
    c_max: Annotated[Width, SameAs("prior")] = 512
    # entry of `models:`, a trained StyleGAN2 with its discriminator
    prior: Annotated[str | None, Entry("prior")] = None
    perceptual: Literal["vgg16", "vgg19", "mobilenet_v2"] = "vgg16"
    pixel_weight: Weight = 1.0  # alpha
    perceptual_weight: Weight = 0.02  # beta
    adversarial_weight: Weight = 0.01  # gamma
    adversarial_from: Whole = 0  # images seen before which the discriminator learns alone
    frozen_blocks: Whole = 1  # of the discriminator, with its fromRGB; 0: all of it learns
    learning_rate: Rate = 1e-4
    betas: Betas = (0.0, 0.9)
    r1_gamma_weight: Weight = 10.0  # gamma of R1
    r1_every: Count = 16  # steps
    mirror: bool = True  # flip half of the real faces
    shift: Whole = 0  # px by which the discriminator's images are moved at most; for small sets
    score_samples: Count = 1000  # for the curve of Frechet distances to the real faces

    @model_validator(mode="after")
    def _fits(self):
        if self.shift > self.size // 2:
            raise ValueError(f"shift: expected 0 to {self.size // 2} px, got {self.shift}")
        blocks = self.size.bit_length() - 3  # of the discriminator: R to 8 px
        if self.frozen_blocks > blocks:
            raise ValueError(f"frozen_blocks: expected 0 to {blocks}, got {self.frozen_blocks}")
        return at_least_one_channel(self, "c_base")


TINY = {"size": 16, "w_dim": 16, "mapping_layers": 2, "c_base": 128, "c_max": 16}
PAPER = {"size": 1024, "perceptual": "vgg19", "frozen_blocks": 4}


class Twins(nn.Module):
    """z -> y and y^: the frozen red generator with the mapping, and green synthesis."""

    def __init__(self, s: Settings):
        super().__init__()
        self.red = Generator(s.size, s.w_dim, s.mapping_layers, s.c_base, s.c_max)
        self.green = Synthesis(s.size, s.w_dim, s.c_base, s.c_max)
        self.start(self.red)

    def start(self, prior: Generator) -> None:
        """Red and green become `prior`; red is frozen. RuntimeError for one of other sizes."""
        self.red.load_state_dict(prior.state_dict())
        self.green.load_state_dict(prior.synthesis.state_dict())
        self.red.requires_grad_(False)

    def draw(self, seeds: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """z N x D and noise maps N x 1 x side x side of integers, the same on every device."""
        sides = [tuple(layer.noise.shape) for layer in self.green.convs()]
        zs, maps = [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            zs.append(torch.randn(self.red.w_dim, generator=generator))
            maps.append([torch.randn(1, *side, generator=generator) for side in sides])
        where = self.red.mapping.w_avg.device
        return torch.stack(zs).to(where), [torch.stack(part).to(where) for part in zip(*maps)]

    def forward(self, z, noise, truncation=1.0):
        """z N x D, noise maps as of `draw` -> y and y^, N x 3 x R x R each; y has no gradient."""
        with torch.no_grad():
            ws = self.red.to_rows(self.red.truncate(self.red.mapping(z), truncation))
            y = self.red.synthesis(ws, noise)
        return y, self.green(ws, noise)


def build(settings: Settings) -> Twins:
    """The two generators, equal. Raises ValueError for a side that is no power of two."""
    return Twins(settings)


@torch.no_grad()
def pairs(
    model: Twins, seeds: Sequence[int], truncation: float = 0.8, batch: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair a seed -> (clean, degraded), N x 3 x R x R in [0, 1] each.

    A pair depends on its seed, not on the others beside it (but for float rounding).
    """
    seeds, made = list(seeds), []
    for start in range(0, len(seeds), batch):
        made.append(model(*model.draw(seeds[start : start + batch]), truncation))
    clean, degraded = ((torch.cat(part) / 2 + 0.5).clamp(0, 1) for part in zip(*made))
    return clean, degraded


def sample(
    model: Twins, n: int, generator: torch.Generator, truncation: float = 1.0, batch: int = 32
) -> torch.Tensor:
    """`n` degraded faces N x 3 x R x R in [0, 1]; their seeds are drawn from `generator`."""
    seeds = torch.randint(2**48, (n,), generator=generator).tolist()
    return pairs(model, seeds, truncation, batch)[1]


class Trainer:
    """One step of Eq. 1 for green, and of the discriminator against real low-quality faces."""

    def __init__(self, model: Twins, settings: Settings, guide: dict):
        s = self.settings = settings
        self.perceptual = perceptual_of(guide, s.perceptual_weight)
        if not 0 <= s.shift <= s.size // 2:
            raise ValueError(f"shift: expected 0 to {s.size // 2} px, got {s.shift}")
        d = begin_at_prior(model, guide, "degradation learning")
        if not 0 <= s.frozen_blocks <= len(d.blocks):
            raise ValueError(f"frozen_blocks: expected 0 to {len(d.blocks)}, got {s.frozen_blocks}")
        if s.frozen_blocks:  # FreezeD
            for part in (d.from_rgb, *d.blocks[: s.frozen_blocks]):
                part.requires_grad_(False)
        learning = [p for p in d.parameters() if p.requires_grad]
        self.networks = {"model": model, "discriminator": d}
        self.optimizers = {
            "model": torch.optim.Adam(model.green.parameters(), lr=s.learning_rate, betas=s.betas),
            "discriminator": lazy_adam(learning, s.learning_rate, s.betas, s.r1_every),
        }
        self.adversary = Adversary(d, self.optimizers["discriminator"], augment=self._seen)

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        """One update of both. `batch`: images_seen, step and low-quality faces in [0, 1], which are
        `degraded`, or `truth` where no recipe made them worse.
        """
        s, adversary = self.settings, self.adversary
        real = batch.get("degraded", batch["truth"]) * 2 - 1
        if s.mirror:
            real = mirrored(real)
        model = self.networks["model"]
        z, noise = model.red.draw(len(real)), model.green.draw_noise(len(real))
        y, y_hat = model(z, noise)

        # ----- green, Eq. 1
        losses = {"pixel": F.mse_loss(y_hat, y)}  # Eq. 2
        total = s.pixel_weight * losses["pixel"]
        if s.perceptual_weight:
            losses["perceptual"] = self.content(y_hat, y)
            total = total + s.perceptual_weight * losses["perceptual"]
        losses["adversarial"] = adversary.fool(y_hat)  # Eq. 4
        total = total + s.adversarial_weight * losses["adversarial"]
        if batch["images_seen"] >= s.adversarial_from:
            descend(self.optimizers["model"], total)

        # ----- discriminator
        losses["discriminator"], _ = adversary.learn(real, y_hat)
        return losses | adversary.penalise(real, s.r1_gamma_weight, s.r1_every, batch["step"])

    def content(self, y_hat: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Eq. 3: mean square of phi(y^ shrunk) - phi(y shrunk), by averaging to 16 x 16 px."""
        [found], [wanted] = (self.perceptual(shrunk(x) / 2 + 0.5).values() for x in (y_hat, y))
        return F.mse_loss(found, wanted)

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        return shift(images, self.settings.shift) if self.settings.shift else images


def shrunk(images: torch.Tensor) -> torch.Tensor:
    """N x 3 x R x R -> N x 3 x 16 x 16 by averaging; smaller ones stay as they are."""
    factor = images.shape[-1] // CONTENT_SIDE
    return F.avg_pool2d(images, factor) if factor > 1 else images


def make_trainer(model: Twins, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop. `guide`: prior, prior_discriminator, perceptual (TAPS)."""
    return Trainer(model, settings, guide)
