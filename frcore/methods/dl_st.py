"""DL-ST's Skip-Transformer: a transformer encoder whose features meet a StyleGAN2 prior.

Paper: Cheikh Sidiya, Xu, Xu, Li, "Degradation Learning and Skip-Transformer for Blind Face
Restoration", Frontiers in Signal Processing 3:1106465, 2023, section 3.3 (figures 3-6, Eq. 5-8).
No code was published and its list of layers is not to be had. The other half of the paper, learned
degradation, is dl_st_degradation.py and the recipes' step `learned`.

Where the paper is taken otherwise than printed, or leaves something open:
- Eq. 7 divides by sqrt(d) behind the softmax, which only rescales the result: here inside, and d is
  the length of a token, C p^2. p is 2 from 16 px up and 1 below; one head, no positions (the
  depthwise convolutions know them), GroupNorm of one group before it.
- "six skip layers between 256 and 4 px" are seven resolutions: all of 4 ... R/2 (`skip_sides`).
- a skip layer works on what leaves a side, behind its image layer; the sum of images is not fused.
- attention up to 32 px (section 3.3.1 and figure 4; section 3.1 says everywhere).
- w = w_avg + the fully connected layer. This and the last convolution of every residual branch
  begin at 0, the skip layers' last one at the identity of the decoder's features: the network
  begins as G(w_avg).
- Eq. 8 are mean squares; phi is conv4_3 of VGG16 (GLEAN's), or MobileNetV2's block of the same
  stride, 8; the "cross-entropy" is the non-saturating logistic loss, with R1.
- noise of the decoder is fixed, as GLEAN's. A leaky ReLU stands behind each halving convolution.
- period of the restarts: a quarter of the paper's training; the decoder's rate stays a tenth.

N batch, C channels, R side of the image, r side of features, p side of a patch, D length of w.
Images of the network are in [-1, 1].
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import model_validator
from torch import nn
from torch.nn import functional as F

from frcore.config import Strict
from frcore.config.types import (
    Betas,
    Count,
    Different,
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
from frcore.nets.adversary import Adversary
from frcore.nets.losses import descend, identity_of, perceptual_of
from frcore.nets.stylegan2 import (
    Generator,
    Synthesis,
    begin_at_prior,
    channels_at,
    check_size,
    full_precision,
    lazy_adam,
    rows_of,
)

METHOD = {
    "title": "DL-ST",
    "paper": "Cheikh Sidiya et al., Degradation Learning and Skip-Transformer for Blind Face "
    "Restoration, Frontiers in Signal Processing 3:1106465, 2023",
    "data": "paired",
    "training_helpers": ["prior"],
    "training_assets": ["perceptual", "identity"],
}

TAPS = {"vgg16": ("conv4_3",), "mobilenet_v2": ("features6",)}  # phi of Eq. 8
ATTENTION_SIDE = 32  # largest side with self-attention
SLOPE = 0.2  # of leaky ReLUs


class Settings(Strict):
    """Defaults are a 64 px version of medium width; w_dim, c_base and c_max are the prior's."""

    size: Annotated[Side, SameAs("prior")] = 64
    w_dim: Annotated[Width, SameAs("prior")] = 512
    # channels of the decoder at side r: min(c_base / r, c_max)
    c_base: Annotated[Width, SameAs("prior")] = 16384
    c_max: Annotated[Width, SameAs("prior")] = 256
    encoder_base: Width = 16384  # the same for the encoder
    encoder_max: Width = 256
    skip_sides: Different[tuple[int, ...]] | None = None  # None: 4, 8, ... R/2
    attention: bool = True  # Table 4; False leaves the residual parts
    # entry of `models:`, a trained StyleGAN2 with its discriminator
    prior: Annotated[str | None, Entry("prior")] = None
    perceptual: Literal["vgg16", "mobilenet_v2"] = "vgg16"
    pixel_weight: Weight = 1.0  # alpha
    perceptual_weight: Weight = 0.02  # beta
    adversarial_weight: Weight = 0.02  # gamma
    identity_weight: Weight = 0.0  # own addition: squared distance of dlib's descriptors
    learning_rate: Rate = 5e-5  # of encoder, skip layers and discriminator
    decoder_rate: Share = 0.1  # the decoder's, as a part of it
    least_rate: Share = 1e-7  # at the end of a period
    restart_images: Count = 440_000  # images in a period of the learning rate
    betas: Betas = (0.5, 0.99)
    r1_gamma_weight: Weight = 10.0  # gamma of R1
    r1_every: Count = 16  # steps

    @model_validator(mode="after")
    def _fits(self):
        known = [2**i for i in range(2, self.size.bit_length() - 1)]  # 4 ... R/2
        wrong = [side for side in self.skip_sides or () if side not in known]
        if wrong:
            raise ValueError(f"skip_sides: no features of side {wrong}, expected some of {known}")
        return at_least_one_channel(self, "c_base", "encoder_base")


PAPER = {
    "size": 512,
    "c_base": 32768,
    "c_max": 512,
    "encoder_max": 512,
    "perceptual": "vgg16",
}
TINY = {
    "size": 16,
    "w_dim": 16,
    "c_base": 128,
    "c_max": 16,
    "encoder_base": 128,
    "encoder_max": 8,
    "learning_rate": 1e-3,
    "r1_every": 2,
}


def patches(x: torch.Tensor, p: int) -> torch.Tensor:
    """Eq. 5, 6: N x C x r x r -> N x r^2/p^2 x C p^2, one token a patch of p x p."""
    return F.pixel_unshuffle(x, p).flatten(2).transpose(1, 2)


def merged(tokens: torch.Tensor, p: int, side: int) -> torch.Tensor:
    """What `patches` undoes: N x r^2/p^2 x C p^2 -> N x C x r x r, r = `side`."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (side // p, side // p)), p)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Eq. 7 with the scale inside: softmax(Q K^T / sqrt(d)) V; N x tokens x d each."""
    return torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v


def _conv(c_in: int, c_out: int, stride: int = 1, zero: bool = False) -> nn.Conv2d:
    """3x3 convolution that keeps the variance behind a leaky ReLU, or gives 0."""
    conv = nn.Conv2d(c_in, c_out, 3, stride, 1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    nn.init.zeros_(conv.weight) if zero else nn.init.kaiming_normal_(conv.weight, SLOPE)
    return conv


class Residual(nn.Module):
    """y = a + conv(leaky ReLU(conv(a)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, channels, zero=True)

    def forward(self, x):
        return x + self.conv2(F.leaky_relu(self.conv1(x), SLOPE))


class SelfAttention(nn.Module):
    """Figure 5: tokens are patches of three depthwise separable convolutions' results."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.p = 2 if side >= 16 else 1
        self.norm = nn.GroupNorm(1, channels)
        self.q, self.k, self.v = (
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
                nn.Conv2d(channels, channels, 1),
            )
            for _ in range(3)
        )
        self.out = _conv(channels, channels, zero=True)

    def forward(self, x):
        y = self.norm(x)
        tokens = attend(*(patches(part(y), self.p) for part in (self.q, self.k, self.v)))
        return self.out(merged(tokens, self.p, x.shape[-1]))


class Block(nn.Module):
    """Figure 4: a = x + SelfAtt(x) (not above 32 px), y = a + ConvResidual(a)."""

    def __init__(self, channels: int, side: int, attention: bool):
        super().__init__()
        wanted = attention and side <= ATTENTION_SIDE
        self.attention = SelfAttention(channels, side) if wanted else None
        self.residual = Residual(channels)

    def forward(self, x):
        if self.attention is not None:
            x = x + self.attention(x)
        return self.residual(x)


class Encoder(nn.Module):
    """Image -> features of every side, and what is added to w_avg (section 3.3.1)."""

    def __init__(self, s: Settings):
        super().__init__()
        sides = [s.size // 2**i for i in range(int(math.log2(s.size)) - 1)]  # R ... 4
        widths = [channels_at(side, s.encoder_base, s.encoder_max) for side in sides]
        self.stem = _conv(3, widths[0])
        self.first = nn.Sequential(*(Residual(widths[0]) for _ in range(4)))
        self.downs = nn.ModuleList(_conv(a, b, stride=2) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(
            Block(width, side, s.attention) for width, side in zip(widths[1:], sides[1:])
        )
        self.to_w = nn.Linear(16 * widths[-1], s.w_dim)
        nn.init.zeros_(self.to_w.weight)
        nn.init.zeros_(self.to_w.bias)

    def forward(self, x):
        """x N x 3 x R x R in [-1, 1] -> {side: features} from R/2 down to 4, N x D."""
        f, features = self.first(self.stem(x)), {}
        for down, block in zip(self.downs, self.blocks):
            f = block(F.leaky_relu(down(f), SLOPE))
            features[f.shape[-1]] = f
        with full_precision(x.device):  # the styles hang on w
            return features, self.to_w(f.flatten(1).to(self.to_w.weight.dtype))


class SkipLayer(nn.Module):
    """Figure 6: encoder's and decoder's features -> the decoder's, for the next side."""

    def __init__(self, encoder: int, decoder: int, side: int, attention: bool):
        super().__init__()
        self.block = Block(encoder + decoder, side, attention)
        self.conv = _conv(encoder + decoder, decoder, zero=True)
        with torch.no_grad():
            self.conv.weight[range(decoder), range(encoder, encoder + decoder), 1, 1] = 1.0

    def forward(self, encoded, x):
        return self.conv(self.block(torch.cat([encoded, x], 1)))


class SkipTransformer(nn.Module):
    """Degraded face -> restored face (figure 3)."""

    def __init__(self, s: Settings):
        super().__init__()
        check_size(s.size)
        between = [2**i for i in range(2, int(math.log2(s.size)))]  # 4 ... R/2
        chosen = between if s.skip_sides is None else s.skip_sides
        wrong = [side for side in chosen if side not in between]
        if wrong:
            raise ValueError(f"skip_sides: no features of side {wrong}, expected some of {between}")
        self.rows = rows_of(s.size)
        self.encoder = Encoder(s)
        self.skips = nn.ModuleDict(
            {
                str(side): SkipLayer(
                    channels_at(side, s.encoder_base, s.encoder_max),
                    channels_at(side, s.c_base, s.c_max),
                    side,
                    s.attention,
                )
                for side in sorted(chosen)
            }
        )
        self.decoder = Synthesis(s.size, s.w_dim, s.c_base, s.c_max)
        self.register_buffer("w_avg", torch.zeros(s.w_dim))

    def start(self, prior: Generator) -> None:
        """The decoder becomes `prior`'s synthesis. RuntimeError for one of other sizes."""
        self.decoder.load_state_dict(prior.synthesis.state_dict())
        self.w_avg.copy_(prior.mapping.w_avg)

    def forward(self, x):
        """x N x 3 x R x R in [-1, 1] -> the same; unbounded: clip it."""
        features, offset = self.encoder(x)
        ws = (self.w_avg + offset)[:, None].expand(-1, self.rows, -1)

        def fuse(side, y):
            return self.skips[str(side)](features[side], y) if str(side) in self.skips else y

        return self.decoder(ws, "fixed", leave=fuse)


def build(settings: Settings) -> SkipTransformer:
    """The network. Raises ValueError for a side that is no power of two, or skips it has not."""
    return SkipTransformer(settings)


def restore(model: SkipTransformer, faces: Faces, guide):
    """Faces N x 3 x R x R in [0, 1] -> restored, the same. Nothing is drawn."""
    return (model(faces.images * 2 - 1) / 2 + 0.5).clamp(0, 1)


class Trainer:
    """One step of Eq. 8, and of the discriminator that the prior was trained with."""

    def __init__(self, model: SkipTransformer, settings: Settings, guide: dict):
        s = self.settings = settings
        self.perceptual = perceptual_of(guide, s.perceptual_weight)
        self.identity = identity_of(guide, s.identity_weight)
        d = begin_at_prior(model, guide, "DL-ST")
        self.networks = {"model": model, "discriminator": d}
        new = [*model.encoder.parameters(), *model.skips.parameters()]
        groups: Sequence[dict] = [
            {"params": new, "lr": s.learning_rate},
            {"params": list(model.decoder.parameters()), "lr": s.decoder_rate * s.learning_rate},
        ]
        self.optimizers = {
            "model": torch.optim.Adam(groups, betas=s.betas),
            "discriminator": lazy_adam(d.parameters(), s.learning_rate, s.betas, s.r1_every),
        }
        self.adversary = Adversary(d, self.optimizers["discriminator"])
        # counted in images: a period is the same for every batch size
        self.schedulers = {
            name: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
                optimizer, T_0=s.restart_images, eta_min=s.least_rate
            )
            for name, optimizer in self.optimizers.items()
        }

    def rates(self, images_seen: int) -> None:
        """Learning rates at this place of the schedule; the decoder's follows the encoder's."""
        for scheduler in self.schedulers.values():
            scheduler.step(images_seen)
        new, decoder = self.optimizers["model"].param_groups
        decoder["lr"] = self.settings.decoder_rate * new["lr"]

    def step(self, batch: dict) -> dict[str, torch.Tensor]:
        """One update of both. `batch`: truth, degraded in [0, 1], images_seen, step."""
        s, model, adversary = self.settings, self.networks["model"], self.adversary
        self.rates(batch["images_seen"])
        y = batch["truth"] * 2 - 1
        y_hat = model(batch["degraded"] * 2 - 1)

        # ----- restorer, Eq. 8
        losses = {"pixel": F.mse_loss(y_hat, y)}
        total = s.pixel_weight * losses["pixel"]
        if s.perceptual_weight:
            losses["perceptual"] = self._perceptual(y_hat, y)
            total = total + s.perceptual_weight * losses["perceptual"]
        if self.identity:
            losses["identity"] = self.identity(y_hat / 2 + 0.5, batch["truth"])
            total = total + s.identity_weight * losses["identity"]
        if s.adversarial_weight:
            losses["adversarial"] = adversary.fool(y_hat)
            total = total + s.adversarial_weight * losses["adversarial"]
        descend(self.optimizers["model"], total)
        if not s.adversarial_weight:
            return losses

        # ----- discriminator
        losses["discriminator"], _ = adversary.learn(y, y_hat)
        return losses | adversary.penalise(y, s.r1_gamma_weight, s.r1_every, batch["step"])

    def _perceptual(self, y_hat, y):
        [found], [wanted] = (self.perceptual(x / 2 + 0.5).values() for x in (y_hat, y))
        return F.mse_loss(found, wanted)


def make_trainer(model: SkipTransformer, settings: Settings, guide: dict) -> Trainer:
    """Trainer of the workflow's loop. `guide`: prior, prior_discriminator, perceptual (TAPS)."""
    return Trainer(model, settings, guide)
