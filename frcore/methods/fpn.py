"""FPN: parsing of low-quality faces, with restoration as a second task.

Paper: Chen, Li, Yang, Lin, Zhang, Wong, "Progressive Semantic-Aware Style Transformation for Blind
Face Restoration", CVPR 2021, arXiv 2009.08709, section 3.3 and figure 9.
Where paper and the authors' code differ the code's layout is followed: no normalisation on stem,
shortcuts and heads; L1 (paper: L2) for the image; it trains alone and is frozen afterwards.

N batch, K labels, H W image, in [0, 1]; the network itself works in [-1, 1].
"""

from itertools import pairwise

import torch
from pydantic import model_validator
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.config.types import AnySide, Betas, Classes, Halvings, Rate, Weight, Whole, Width
from frcore.faces.batch import Faces
from frcore.nets.losses import descend

METHOD = {
    "role": "helper",
    "title": "FPN",
    "paper": "Chen et al., Progressive Semantic-Aware Style Transformation for Blind Face "
    "Restoration, CVPR 2021, arXiv 2009.08709",
    "data": "paired",
    "labels": True,
}


class Settings(Strict):
    """Paper size: size 512, base 64, widest 256, downs 4, blocks 10, labels 19."""

    size: AnySide = 64
    labels: Classes = 10  # 10 landmark classes or CelebAMask-HQ's 19
    base: Width = 64  # channels at full size
    widest: Width = 256  # most channels
    downs: Halvings = 3  # halvings; the body works at size / 2**downs
    blocks: Whole = 10  # residual blocks in the body
    learning_rate: Rate = 2e-4
    betas: Betas = (0.9, 0.999)
    # of the L1 term beside cross-entropy; 0 switches the second task off
    image_weight: Weight = 1.0

    @model_validator(mode="after")
    def _fits(self):
        if self.size % 2**self.downs or self.size < 2 * 2**self.downs:
            raise ValueError(f"downs: {self.size} px halved {self.downs} times are no 2 px or more")
        return self


TINY = {"size": 32, "base": 8, "widest": 16, "downs": 2, "blocks": 1}


class ConvUnit(nn.Sequential):
    """Reflection pad, 3x3 convolution, optional batch norm, optional leaky ReLU 0.2."""

    def __init__(self, c_in, c_out, stride=1, up=False, norm=True, activate=True):
        layers: list[nn.Module] = [nn.Upsample(scale_factor=2, mode="nearest")] if up else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(c_in, c_out, 3, stride, bias=not norm)]
        layers += [nn.BatchNorm2d(c_out)] if norm else []
        layers += [nn.LeakyReLU(0.2)] if activate else []
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two units and a shortcut; `down` strides in the second, `up` enlarges before the first."""

    def __init__(self, c_in, c_out, down=False, up=False):
        super().__init__()
        stride = 2 if down else 1
        self.main = nn.Sequential(
            ConvUnit(c_in, c_out, up=up), ConvUnit(c_out, c_out, stride, activate=False)
        )
        plain = c_in == c_out and not (down or up)
        self.shortcut = (
            nn.Identity()
            if plain
            else ConvUnit(c_in, c_out, stride, up, norm=False, activate=False)
        )

    def forward(self, x):
        return self.shortcut(x) + self.main(x)


class FPN(nn.Module):
    """I_L (N x 3 x H x W in [-1, 1]) -> label logits (N x K x H x W), restored image."""

    def __init__(self, settings: Settings):
        super().__init__()
        widths = [min(settings.base * 2**i, settings.widest) for i in range(settings.downs + 1)]
        self.encoder = nn.Sequential(
            ConvUnit(3, widths[0], norm=False, activate=False),
            *[ResidualBlock(a, b, down=True) for a, b in pairwise(widths)],
        )
        self.body = nn.Sequential(
            *[ResidualBlock(widths[-1], widths[-1]) for _ in range(settings.blocks)]
        )
        back = widths[::-1]
        self.decoder = nn.Sequential(*[ResidualBlock(a, b, up=True) for a, b in pairwise(back)])
        self.to_image = ConvUnit(widths[0], 3, norm=False, activate=False)
        self.to_labels = ConvUnit(widths[0], settings.labels, norm=False, activate=False)

    def forward(self, image):
        features = self.encoder(image)
        features = self.decoder(features + self.body(features))
        return self.to_labels(features), self.to_image(features)


def build(settings: Settings) -> FPN:
    """The network with PyTorch's default initialisation."""
    return FPN(settings)


def restore(model, faces: Faces, guide):
    """The image head's restoration (the second task), N x 3 x H x W in [0, 1]."""
    return (model(faces.images * 2 - 1)[1] / 2 + 0.5).clamp(0, 1)


class Trainer:
    """Cross-entropy on the labels plus L1 on the image (paper section 3.3)."""

    def __init__(self, model: FPN, settings: Settings, guide: dict):
        self.settings = settings
        self.networks = {"model": model}
        self.optimizers = {
            "model": torch.optim.Adam(
                model.parameters(), lr=settings.learning_rate, betas=settings.betas
            )
        }

    def step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One update. `batch`: truth, degraded N x 3 x H x W in [0, 1], labels N x H x W."""
        model, optimizer = self.networks["model"], self.optimizers["model"]
        logits, image = model(batch["degraded"] * 2 - 1)
        parsing = F.cross_entropy(logits.float(), batch["labels"].long())
        pixels = F.l1_loss(image.float(), batch["truth"] * 2 - 1)
        loss = parsing + self.settings.image_weight * pixels
        descend(optimizer, loss)
        accuracy = (logits.detach().argmax(1) == batch["labels"]).float().mean()
        return {"cross_entropy": parsing, "image_l1": pixels, "accuracy": accuracy}


def make_trainer(model: FPN, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop."""
    return Trainer(model, settings, guide)
