"""An encoder of faces into W+ of a trained StyleGAN2, the start of every latent search.

Papers: Richardson et al., "Encoding in Style: a StyleGAN Encoder for Image-to-Image Translation"
(pSp), CVPR 2021, arXiv 2008.00951: a feature pyramid whose levels give the rows of W+, added to
the mean latent; L2 and a perceptual distance. Tov et al., "Designing an Encoder for StyleGAN Image
Manipulation" (e4e), SIGGRAPH 2021, arXiv 2102.02766: one latent for all rows and small offsets,
released row by row and kept small (Eq. 1, L_d-reg).
Own choices: residual blocks of StyleGAN2's discriminator in the place of IR-SE50, whose pretrained
weights are not to be had; a part of every batch is samples of the prior, whose latents are known
(`latent_weight`); no latent discriminator; no identity loss, so that identity can measure.

N batch, C channels, R side, L rows of W+, D length of w. Images of the nets are in [-1, 1].
"""

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import model_validator
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.config.types import (
    Betas,
    Count,
    Entry,
    Rate,
    SameAs,
    Share,
    Side,
    Weight,
    Width,
    at_least_one_channel,
)
from frcore.faces.batch import Faces
from frcore.frozen.perceptual import feature_distance
from frcore.nets.losses import descend, perceptual_of
from frcore.nets.stylegan2 import (
    DiscriminatorBlock,
    EqualConv,
    EqualLinear,
    Generator,
    channels_at,
    check_size,
    rows_of,
)

METHOD = {
    "role": "helper",
    "title": "W+ encoder",
    "paper": "Richardson et al., Encoding in Style, CVPR 2021, arXiv 2008.00951; Tov et al., "
    "Designing an Encoder for StyleGAN Image Manipulation, SIGGRAPH 2021, arXiv 2102.02766",
    "data": "faces",
    "helpers": ["prior"],
    "training_assets": ["perceptual"],
}


class Settings(Strict):
    """`size` and `w_dim` are those of the prior."""

    size: Annotated[Side, SameAs("prior")] = 64
    w_dim: Annotated[Width, SameAs("prior")] = 512
    c_base: Width = 8192  # channels at side r: min(c_base / r, c_max)
    c_max: Width = 512
    pyramid: Width = 128  # channels of the feature pyramid
    # entry of `models:`, a trained StyleGAN2
    prior: Annotated[str | None, Entry("prior")] = None
    perceptual: str = "mobilenet_v2"  # or vgg16, vgg19
    pixel_weight: Weight = 1.0
    perceptual_weight: Weight = 0.8
    delta_weight: Weight = 2e-4  # of the offsets' squares
    latent_weight: Weight = 0.1  # distance of known latents, for samples of the prior
    sampled: Share = 0.5  # part of a batch that the prior makes
    release_images: Count = 8000  # one more row gets an offset after every so many images
    learning_rate: Rate = 1e-3
    betas: Betas = (0.9, 0.99)

    @model_validator(mode="after")
    def _fits(self):
        if self.size < 16:
            raise ValueError(f"size: the encoder needs a side of 16 or more, got {self.size}")
        return at_least_one_channel(self, "c_base")


TINY = {"size": 16, "w_dim": 16, "c_base": 128, "c_max": 16, "pyramid": 8, "release_images": 1}
LEVELS = (8, 16, 32)  # sides of the pyramid's levels, coarse rows first (pSp, figure 2)


class Encoder(nn.Module):
    """Image -> W+ N x L x D: mean latent + one latent for all rows + an offset a row."""

    def __init__(self, s: Settings):
        super().__init__()
        check_size(s.size)
        if s.size < 2 * LEVELS[0]:
            raise ValueError(f"the encoder needs a side of {2 * LEVELS[0]} or more, got {s.size}")
        self.settings, self.rows = s, rows_of(s.size)
        sides = [s.size // 2**i for i in range(s.size.bit_length()) if s.size // 2**i >= 4]
        widths = [channels_at(side, s.c_base, s.c_max) for side in sides]
        self.stem = EqualConv(3, widths[0], 3)
        self.downs = nn.ModuleList(DiscriminatorBlock(a, b) for a, b in pairwise(widths))
        self.levels = [side for side in LEVELS if side < s.size]
        self.laterals = nn.ModuleList(
            EqualConv(widths[sides.index(side)], s.pyramid, 1, activate=False)
            for side in self.levels
        )
        # three coarse rows, four in the middle, the rest fine
        counts = [3, 4][: len(self.levels) - 1]
        counts.append(self.rows - sum(counts))
        self.heads = nn.ModuleList(
            nn.Sequential(
                *[EqualConv(s.pyramid, s.pyramid, 3, down=True) for _ in range(_halvings(side))],
                nn.Flatten(),
                EqualLinear(16 * s.pyramid, count * s.w_dim),
            )
            for side, count in zip(self.levels, counts)
        )
        self.base = nn.Sequential(
            EqualConv(widths[-1], widths[-1], 3),
            nn.Flatten(),
            EqualLinear(16 * widths[-1], s.w_dim),
        )
        for last in (self.base[-1], *(head[-1] for head in self.heads)):
            nn.init.zeros_(last.weight)  # the first image is that of the mean latent
        self.register_buffer("w_avg", torch.zeros(s.w_dim))
        self.register_buffer("released", torch.tensor(self.rows))  # rows whose offset counts

    def latents(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """image N x 3 x R x R in [-1, 1] -> w N x D, offsets N x L x D (0 where not released)."""
        x, features = self.stem(image), {}
        for down in self.downs:
            x = down(x)
            features[x.shape[-1]] = x
        base = self.w_avg + self.base(x)
        above, offsets = None, []
        for side, lateral, head in zip(self.levels, self.laterals, self.heads):
            level = lateral(features[side])
            if above is not None:
                level = level + F.interpolate(
                    above, scale_factor=2, mode="bilinear", align_corners=False
                )
            above = level
            offsets.append(head(level).unflatten(1, (-1, self.settings.w_dim)))
        rows = torch.arange(self.rows, device=image.device)
        counts = (rows > 0) & (rows < self.released)  # the first row is the latent of all
        return base, torch.cat(offsets, 1) * counts[:, None]

    def forward(self, image):
        """image N x 3 x R x R in [-1, 1] -> W+ N x L x D."""
        base, offsets = self.latents(image)
        return base[:, None] + offsets


def _halvings(side: int) -> int:
    return (side // 4).bit_length() - 1


def build(settings: Settings) -> Encoder:
    """The encoder; its mean latent is the prior's once it is trained or loaded.

    Raises ValueError for a side below 16 or that is no power of two.
    """
    return Encoder(settings)


def restore(model: Encoder, faces: Faces, guide):
    """Reconstruction: faces N x 3 x R x R in [0, 1] -> the prior's image of their latents."""
    ws = model(faces.images * 2 - 1)
    return (guide["prior"].synthesis(ws, "fixed") / 2 + 0.5).clamp(0, 1)


class Trainer:
    """Reconstructs real faces and samples of the prior; the prior is frozen."""

    def __init__(self, model: Encoder, settings: Settings, guide: dict):
        self.settings, self.networks = settings, {"model": model}
        self.prior: Generator | None = guide.get("prior")
        if self.prior is None:
            raise ValueError("the encoder needs settings.prior: a trained StyleGAN2 entry")
        self.perceptual = perceptual_of(guide, settings.perceptual_weight)
        if (self.prior.size, self.prior.w_dim) != (settings.size, settings.w_dim):
            raise ValueError(
                f"size and w_dim are {settings.size} and {settings.w_dim}, expected the prior's "
                f"{self.prior.size} and {self.prior.w_dim}"
            )
        model.w_avg.copy_(self.prior.mapping.w_avg)
        self.optimizers = {
            "model": torch.optim.Adam(
                model.parameters(), lr=settings.learning_rate, betas=settings.betas
            )
        }

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        """One update. `batch`: truth N x 3 x R x R in [0, 1], images_seen."""
        s, model = self.settings, self.networks["model"]
        model.released.fill_(min(1 + batch["images_seen"] // s.release_images, model.rows))
        target = batch["truth"] * 2 - 1
        n = round(s.sampled * len(target))
        with torch.no_grad():
            known = self.prior.to_rows(self.prior.mapping(self.prior.draw(n)))
            target = torch.cat([self.prior.synthesis(known, "fixed").clamp(-1, 1), target[n:]])

        base, offsets = model.latents(target)
        ws = base[:, None] + offsets
        image = self.prior.synthesis(ws, "fixed")
        losses = {
            "pixel": F.mse_loss(image, target),
            "delta": offsets.square().sum((1, 2)).mean(),
        }
        total = s.pixel_weight * losses["pixel"] + s.delta_weight * losses["delta"]
        if s.perceptual_weight:
            found, wanted = (self.perceptual(x / 2 + 0.5) for x in (image, target))
            losses["perceptual"] = feature_distance(found, wanted).mean()
            total = total + s.perceptual_weight * losses["perceptual"]
        if n:
            losses["latent"] = F.mse_loss(ws[:n], known)
            total = total + s.latent_weight * losses["latent"]
        descend(self.optimizers["model"], total)
        return losses


def make_trainer(model: Encoder, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop. `guide`: prior (a StyleGAN2), perceptual."""
    return Trainer(model, settings, guide)
