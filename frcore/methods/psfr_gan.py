"""PSFR-GAN: progressive semantic-aware style transformation for blind face restoration.

Paper: Chen, Li, Yang, Lin, Zhang, Wong, "Progressive Semantic-Aware Style Transformation for Blind
Face Restoration", CVPR 2021, arXiv 2009.08709. Equation numbers below are the paper's.

Where the paper and its authors' code differ, and what is done here:
- Eq. 1 transforms once per scale; the code twice, inside a residual block. As the code.
- Eq. 4 is a squared distance; the code (and the released model) uses L1. As the code.
- Eq. 5 sums masked Gram matrices with weight 100; the code divides by the channels, averages over
  labels and uses weight 1000. As the code.
- Eq. 6 compares four features of a discriminator; the code five. As the code.
- the discriminators see the parsing map of the truth beside the image (not in the paper). As the
code.
- the code resizes the conditioning without anti-aliasing, so that at 1/32 of the size 1.6 % of the
  pixels are read. Here it is anti-aliased; `antialias: false` gives the code's behaviour.
- the code leaves the parser in training mode while the generator trains. Here it is always in
  evaluation mode.

Own choices: features of VGG16 (no package ships VGG19) unless `perceptual:` says vgg19 or
mobilenet_v2; EMA of the generator (the training loop's); sizes below 512 start from a 4 x 4
constant with fewer channels.

N batch, K labels, C channels, H W image. Images are in [0, 1] outside and in [-1, 1] inside.
"""

from itertools import pairwise
from typing import Annotated, Any, cast

import torch
from pydantic import model_validator
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from frcore.config import Strict
from frcore.config.types import (
    AnySide,
    Betas,
    Classes,
    Depth,
    Entry,
    Halvings,
    Rate,
    SameAs,
    Weight,
    Whole,
    Width,
)
from frcore.faces.batch import Faces
from frcore.frozen.parsing import one_hot, predict_labels
from frcore.nets.adversary import Adversary
from frcore.nets.losses import descend, identity_of

METHOD = {
    "title": "PSFR-GAN",
    "paper": "Chen et al., Progressive Semantic-Aware Style Transformation for Blind Face "
    "Restoration, CVPR 2021, arXiv 2009.08709",
    "data": "paired",
    "helpers": ["parser"],
    "training_assets": ["perceptual", "identity"],
    "labels": True,
}

# layers whose Gram matrices Eq. 5 compares: at 1/4, 1/8 and 1/16 of the image that the net sees
TAPS = {
    "vgg19": ("relu3_4", "relu4_4", "conv5_4"),
    "vgg16": ("relu3_3", "relu4_3", "conv5_3"),  # the last of the same blocks
    "mobilenet_v2": ("features3", "features6", "features13"),
}


class Settings(Strict):
    """Defaults are `64-L` of the sheet; PAPER is the published size."""

    size: AnySide = 64
    labels: Annotated[Classes, SameAs("parser")] = 10
    start: Width = 4  # side of the learned constant F_0
    channels: tuple[Width, ...] = (512, 256, 128, 64, 32)  # per stage, doubling from `start`
    hidden: Width = 64  # channels inside a style transformation
    antialias: bool = True  # of the conditioning pyramid
    parsing: bool = True  # I_P in the conditioning (Table 2: B, D)
    style: bool = True  # the semantic-aware style loss (Table 2: C, D)
    # entry of `models:` that predicts I_P
    parser: Annotated[str | None, Entry("parser", where="parsing")] = None
    perceptual: str = "vgg16"  # or vgg19, mobilenet_v2: features of the style loss
    discriminators: Depth = 2  # scales 1, 1/2, ...
    d_base: Width = 64
    d_depth: Halvings = 3  # halvings inside a discriminator
    pixel_weight: Weight = 10.0
    matching_weight: Weight = 10.0
    adversarial_weight: Weight = 1.0
    style_weight: Weight = 1000.0
    identity_weight: Weight = 0.0  # own addition: squared distance of dlib's descriptors
    g_learning_rate: Rate = 1e-4
    d_learning_rate: Rate = 4e-4
    betas: Betas = (0.5, 0.999)
    adversarial_from: Whole = 0  # images seen before discriminators and style loss join in

    @model_validator(mode="after")
    def _fits(self):
        stages = self.start * 2 ** (len(self.channels) - 1)
        if stages != self.size:
            raise ValueError(
                f"start {self.start} doubled for {len(self.channels)} stages gives {stages}, "
                f"expected size {self.size}"
            )
        halvings = self.discriminators - 1 + self.d_depth
        if self.size % 2**halvings or self.size < 3 * 2**halvings:
            raise ValueError(
                f"discriminators and d_depth: {self.size} px cannot be halved {halvings} times to "
                "3 or more"
            )
        return self


PAPER = {
    "size": 512,
    "labels": 19,
    "start": 16,
    "channels": (1024, 512, 256, 128, 64, 32),
    "antialias": False,
    "perceptual": "vgg19",
    "discriminators": 3,
    "d_depth": 4,
}
TINY = {
    "size": 32,
    "channels": (16, 16, 8, 8),
    "hidden": 8,
    "d_base": 8,
    "d_depth": 2,
}


class StyleTransformation(nn.Module):
    """Eq. 1, 2: F_i = gamma_i * InstanceNorm(F) + beta_i, gamma and beta read from R."""

    def __init__(self, channels: int, conditioning: int, hidden: int):
        super().__init__()
        self.shared = _conv(conditioning, hidden)
        self.gamma = _conv(hidden, channels)
        self.beta = _conv(hidden, channels)

    def forward(self, x, r):
        """x N x C x h x w features, r N x (3 + K) x h x w conditioning -> N x C x h x w."""
        a = F.leaky_relu(self.shared(r), 0.2)
        return self.gamma(a) * F.instance_norm(x, eps=1e-5) + self.beta(a)


class StyleBlock(nn.Module):
    """Residual block: transform, activate, convolve, twice; no activation after the sum."""

    def __init__(self, channels: int, conditioning: int, hidden: int):
        super().__init__()
        self.transform1 = StyleTransformation(channels, conditioning, hidden)
        self.conv1 = _conv(channels, channels)
        self.transform2 = StyleTransformation(channels, conditioning, hidden)
        self.conv2 = _conv(channels, channels)

    def forward(self, x, r):
        y = self.conv1(F.leaky_relu(self.transform1(x, r), 0.2))
        return x + self.conv2(F.leaky_relu(self.transform2(y, r), 0.2))


def _conv(c_in: int, c_out: int) -> nn.Module:
    """3x3 convolution with spectral norm, PyTorch's default initialisation."""
    return spectral_norm(nn.Conv2d(c_in, c_out, 3, padding=1))


class Generator(nn.Module):
    """I_L and I_P -> restored face, through style transformations from coarse to fine."""

    def __init__(self, s: Settings):
        super().__init__()
        if s.start * 2 ** (len(s.channels) - 1) != s.size:
            raise ValueError(
                f"start {s.start} doubled for {len(s.channels)} stages gives "
                f"{s.start * 2 ** (len(s.channels) - 1)}, expected size {s.size}"
            )
        self.settings = s
        conditioning = 3 + s.labels * s.parsing
        self.constant = nn.Parameter(torch.randn(1, s.channels[0], s.start, s.start))  # F_0
        before = (s.channels[0], *s.channels)
        self.convs = nn.ModuleList(_conv(a, b) for a, b in zip(before, s.channels))
        self.blocks = nn.ModuleList(StyleBlock(c, conditioning, s.hidden) for c in s.channels)
        self.to_image = _conv(s.channels[-1], 3)

    def pyramid(self, degraded, labels) -> list[torch.Tensor]:
        """R at every stage's size, from degraded N x 3 x H x W in [-1, 1] and labels N x H x W."""
        r = degraded
        if self.settings.parsing:
            r = torch.cat([degraded, one_hot(labels, self.settings.labels)], 1)
        sizes = [self.settings.start * 2**i for i in range(len(self.blocks))]
        return [
            r
            if size == r.shape[-1]
            else F.interpolate(
                r,
                size=(size, size),
                mode="bicubic",
                align_corners=False,
                antialias=self.settings.antialias,
            )
            for size in sizes
        ]

    def forward(self, degraded, labels=None):
        """degraded N x 3 x H x W in [-1, 1] -> restored; unbounded: clip it."""
        x = self.constant.expand(len(degraded), -1, -1, -1)
        for i, r in enumerate(self.pyramid(degraded, labels)):
            if i > 0:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.blocks[i](self.convs[i](x), r)
        return self.to_image(x)


class PatchDiscriminator(nn.Module):
    """One scale: image and parsing map -> score map, and the features for matching (Eq. 6)."""

    def __init__(self, c_in: int, base: int, depth: int):
        super().__init__()

        def unit(a, b):
            return spectral_norm(nn.Conv2d(a, b, 3, padding=1, padding_mode="reflect"))

        widths = [base * 2**i for i in range(depth + 1)]
        self.convs = nn.ModuleList([unit(c_in, base)] + [unit(a, b) for a, b in pairwise(widths)])
        self.score = spectral_norm(nn.Conv2d(widths[-1], 1, 3))

    def forward(self, x):
        features = [F.leaky_relu(self.convs[0](x), 0.2)]
        for conv in self.convs[1:]:
            x = F.instance_norm(halved(cast(nn.Conv2d, conv), features[-1]), eps=1e-5)
            features.append(F.leaky_relu(x, 0.2))
        return self.score(features[-1]), features


def halved(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 3 x 3 convolution and the mean of 2 x 2, as one of 4 x 4 and stride 2: 4 of 9 products.

    N x C x H x W, even sides, border reflected -> N x C' x H/2 x W/2.
    """
    shifts = [(left, 1 - left, top, 1 - top) for left in (0, 1) for top in (0, 1)]
    weight = torch.stack([F.pad(conv.weight, shift) for shift in shifts]).mean(0)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, conv.bias, stride=2)


class Discriminators(nn.Module):
    """Separate patch discriminators on the image, on its half, on its quarter, ..."""

    def __init__(self, s: Settings):
        super().__init__()
        self.labels = s.labels
        self.scales = nn.ModuleList(
            PatchDiscriminator(3 + s.labels, s.d_base, s.d_depth) for _ in range(s.discriminators)
        )

    def forward(self, image, labels):
        """image N x 3 x H x W in [-1, 1], labels N x H x W -> [(scores, features)] per scale."""
        x = torch.cat([image, one_hot(labels, self.labels)], 1)
        outputs = []
        for i, discriminator in enumerate(self.scales):
            if i > 0:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(discriminator(x))
        return outputs


def feature_matching(fake: list[list], real: list[list]) -> torch.Tensor:
    """Eq. 6: squared distance of features, summed over layers, averaged over scales."""
    terms = [
        sum(F.mse_loss(f, r.detach()) for f, r in zip(scale_f, scale_r))
        for scale_f, scale_r in zip(fake, real)
    ]
    return cast(torch.Tensor, sum(terms)) / len(terms)


def masked_gram(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Gram matrix inside each region, after Eq. 5 with the code's 1/C.

    features N x C x h x w, masks N x K x h x w of 0 and 1 -> N x K x C x C. An empty region gives
    0.
    """
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)
    masks = masks.reshape(n, -1, h * w)
    # a mask of 0 and 1 needs to be applied to one side only
    grams = torch.stack([torch.bmm(flat * m[:, None], flat.mT) for m in masks.unbind(1)], 1)
    return grams / (c * (masks.sum(-1) + 1e-8))[..., None, None]


def semantic_style_loss(fake: dict, real: dict, labels: torch.Tensor, n_labels: int):
    """Eq. 5, L_ss: squared distance of the masked Gram matrices, mean over labels, sum over layers.

    fake, real: {tap: N x C x h x w}; labels N x H x W of the truth, for both. Absent labels count
    as 0 in the mean. Always in float32: 1e-8 vanishes in half precision.
    """
    maps = one_hot(labels, n_labels)
    loss: torch.Tensor | float = 0.0
    with torch.autocast(labels.device.type, enabled=False):
        for tap, features in fake.items():
            masks = F.interpolate(maps, size=features.shape[-2:], mode="nearest")
            loss = loss + F.mse_loss(
                masked_gram(features.float(), masks), masked_gram(real[tap].detach().float(), masks)
            )
    return loss


def build(settings: Settings) -> Generator:
    """The generator. Raises ValueError when stages and size do not fit."""
    return Generator(settings)


def restore(model: Generator, faces: Faces, guide):
    """Faces N x 3 x H x W in [0, 1] -> restored, the same. `guide["parser"]`: a trained FPN."""
    labels = predict_labels(guide["parser"], faces.images) if model.settings.parsing else None
    return (model(faces.images * 2 - 1, labels) / 2 + 0.5).clamp(0, 1)


class Trainer:
    """One step of Eq. 9 (generator) and Eq. 8 (discriminators) from one shared forward pass."""

    def __init__(self, model: Generator, settings: Settings, guide: dict):
        self.settings = settings
        self.parser: Any = guide.get("parser")
        self.perceptual: Any = guide.get("perceptual")
        if settings.parsing and self.parser is None:
            raise ValueError("PSFR-GAN with parsing needs settings.parser: a trained FPN entry")
        if settings.style and self.perceptual is None:
            raise ValueError("the semantic-aware style loss needs a perceptual net")
        self.identity = identity_of(guide, settings.identity_weight)
        self.networks = {"model": model, "discriminators": Discriminators(settings)}
        d = self.networks["discriminators"].to(model.constant.device)
        s = settings
        self.optimizers = {
            "model": torch.optim.Adam(model.parameters(), lr=s.g_learning_rate, betas=s.betas),
            "discriminators": torch.optim.Adam(d.parameters(), lr=s.d_learning_rate, betas=s.betas),
        }
        self.adversary = Adversary(
            d,
            self.optimizers["discriminators"],
            "hinge",
            scores=lambda scales: [score for score, _ in scales],
            first="fake",
        )

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        """One update of both. `batch`: truth, degraded in [0, 1], labels, images_seen."""
        s, adversary = self.settings, self.adversary
        truth, degraded, labels = batch["truth"] * 2 - 1, batch["degraded"], batch["labels"]
        parsing = predict_labels(self.parser, degraded) if s.parsing else None
        restored = self.networks["model"](degraded * 2 - 1, parsing)
        adversarial = batch["images_seen"] >= s.adversarial_from

        losses = {"pixel": F.l1_loss(restored.float(), truth)}  # Eq. 4
        total = s.pixel_weight * losses["pixel"]
        if adversarial:
            with adversary.resting():  # one pass for matching and for the score
                fake, real = (adversary.judged(x, labels) for x in (restored, truth))
            losses["matching"] = feature_matching([f for _, f in fake], [f for _, f in real])
            losses["adversarial"] = adversary.g_loss(adversary.scores(fake))  # Eq. 7
            total = total + s.matching_weight * losses["matching"]
            total = total + s.adversarial_weight * losses["adversarial"]
        if adversarial and s.style:
            losses["style"] = semantic_style_loss(
                self.perceptual(restored / 2 + 0.5),
                self.perceptual(truth / 2 + 0.5),
                labels,
                s.labels,
            )
            total = total + s.style_weight * losses["style"]
        if self.identity:
            losses["identity"] = self.identity(restored / 2 + 0.5, batch["truth"])
            total = total + s.identity_weight * losses["identity"]
        descend(self.optimizers["model"], total)

        if adversarial:
            losses["discriminators"], _ = adversary.learn(truth, restored, labels)  # Eq. 8
        return losses


def make_trainer(model: Generator, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop. `guide`: parser (an FPN), perceptual (with TAPS)."""
    return Trainer(model, settings, guide)
