"""Adaptive discriminator augmentation (ADA): what the discriminator sees of a small set.

Paper: Karras, Aittala, Hellsten, Laine, Lehtinen, Aila, "Training Generative Adversarial Networks
with Limited Data", NeurIPS 2020, arXiv 2006.06676: the pipeline of geometric and colour operations
("bgc", appendix B) and the control of p by r_t (section 3). Differs from the paper: images that
move by whole pixels (untouched ones, flips, quarter turns, whole shifts) are copied, not filtered,
so they are exact; a batch of only those is not resampled at all. The image is reflected without
end, not up to a margin. p is kept within [0, 1]. Samples of the enlarged image are taken to lie at
the filter's centre of mass, tap 5.098; at 5.5, the middle, a half turn would move faces by 0.4
pixels.

Everything is linear in the image and made of gather, index_select and products of matrices: R1 on
the images before augmentation needs the second derivative, which F.grid_sample has in newer
versions of PyTorch only, and F.grid_sample and reflection padding are not deterministic on CUDA.

N batch, R side, P period of the enlarged image (4 R - 4), K its samples under the output
(2 R + 10). Images are N x 3 x R x R in [-1, 1]; results are not clipped.
"""

import functools
import math

import torch

# Symlet of order 6 (12 taps, sum sqrt(2)). Orthogonal: enlarging and shrinking without a warp
# between them gives the image back.
# fmt: off
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)
# fmt: on
CENTRE = sum(i * tap for i, tap in enumerate(SYM6)) / sum(SYM6)


def augment(
    images: torch.Tensor, p: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Images N x 3 x R x R, each operation applied to each with probability `p`.

    p == 0 returns `images` itself. Raises ValueError for p outside [0, 1] or another shape.
    """
    if p == 0:
        return images
    n, side = len(images), images.shape[-1]
    return apply(images, *draw(n, p, side, generator, images.device))


def colour_and_translation(images: torch.Tensor) -> torch.Tensor:
    """Brightness, saturation, contrast, then a shift by whole pixels with zeros behind it.

    Zhao, Liu, Lin, Zhu, Han, "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS
    2020, arXiv 2006.10738, policy "color, translation"; each drawn per image. N x C x H x W in
    [-1, 1] -> the same shape, not clipped.
    """
    n, _, h, w = images.shape

    def uniform(low, high):
        return torch.rand(n, 1, 1, 1, device=images.device) * (high - low) + low

    x = images + uniform(-0.5, 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * uniform(0, 2) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.5, 1.5) + mean
    reach_y, reach_x = round(h / 8), round(w / 8)
    framed = torch.nn.functional.pad(x, (reach_x, reach_x, reach_y, reach_y))
    return _window(framed, reach_y, reach_x)


def mirrored(images: torch.Tensor) -> torch.Tensor:
    """Each image N x C x H x W turned left to right with probability 1/2."""
    flip = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def shift(images: torch.Tensor, reach: int) -> torch.Tensor:
    """Each image moved by whole pixels, -`reach` to `reach` in x and y, reflected at its borders.

    N x C x H x W -> the same shape, its values copied. Raises ValueError for a reach that is not
    within 0 and half the shorter side.
    """
    h, w = images.shape[2:]
    if not 0 <= reach <= min(h, w) // 2:
        raise ValueError(f"shift: expected 0 to {min(h, w) // 2} px, got {reach}")
    rows, columns = (_reflected(side, reach, images.device) for side in (h, w))
    return _window(images[:, :, rows][:, :, :, columns], reach, reach)


def _reflected(side: int, reach: int, device) -> torch.Tensor:
    """Places 0 ... side - 1 with `reach` more on both ends, mirrored at the outermost pixels."""
    places = torch.arange(-reach, side + reach, device=device).abs()
    return side - 1 - (side - 1 - places).abs()


def _window(framed: torch.Tensor, reach_y: int, reach_x: int) -> torch.Tensor:
    """A window of each image, as large as it is without its frame, at a place drawn at random.

    A gather, so that it is deterministic everywhere and has a second derivative.
    """
    n, c, height, width = framed.shape
    h, w = height - 2 * reach_y, width - 2 * reach_x
    rows = torch.randint(0, 2 * reach_y + 1, (n, 1), device=framed.device)
    columns = torch.randint(0, 2 * reach_x + 1, (n, 1), device=framed.device)
    rows = (rows + torch.arange(h, device=framed.device))[:, None, :, None]
    columns = (columns + torch.arange(w, device=framed.device))[:, None, None, :]
    index = (rows * width + columns).flatten(2).expand(-1, c, -1)
    return framed.flatten(2).gather(2, index).view(n, c, h, w)


# ----- random matrices (appendix B)


def draw(
    n: int,
    p: float,
    side: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices of `n` images of `side`: geometry n x 3 x 3 and colour n x 4 x 4, on `device`.

    geometry takes (x, y, 1) of the output to that of the input, in units of half the side, with
    the origin in the centre and y downwards; colour takes (r, g, b, 1) to the new colour. With a
    generator the numbers are drawn on its device. Raises ValueError for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"expected p in [0, 1], got {p}")
    v = _parameters(n, p, generator, device if generator is None else generator.device)
    return _geometry(v, side).to(device), _colour(v).to(device)


def _parameters(n, p, generator=None, device=None) -> dict[str, torch.Tensor]:
    """Parameter of each operation for each image; 0 changes nothing."""
    how = {"generator": generator, "device": device}

    def some(values, chance=p):
        return values * (torch.rand(n, **how) < chance)

    def integer(high):
        return torch.randint(high, (n,), dtype=torch.float32, **how)

    def uniform(limit, *shape):
        return (torch.rand(*shape, n, **how) * 2 - 1) * limit

    def normal(std, *shape):
        return torch.randn(*shape, n, **how) * std

    p_turn = 1 - math.sqrt(1 - p)  # of each of the two turns: either happens with probability p
    return {
        "flip": some(integer(2)),
        "quarters": some(integer(4)),
        "shift": some(uniform(0.125, 2)),  # of the side; rounded to pixels
        "zoom": some(normal(0.2)),  # log2
        "turn_before": some(uniform(math.pi), p_turn),
        "stretch": some(normal(0.2)),  # log2
        "turn_after": some(uniform(math.pi), p_turn),
        "drift": some(normal(0.125, 2)),  # of the side
        "brightness": some(normal(0.2)),
        "contrast": some(normal(0.5)),  # log2
        "luma_flip": some(integer(2)),
        "hue": some(uniform(math.pi)),
        "saturation": some(normal(1.0)),  # log2
    }


def _geometry(v: dict[str, torch.Tensor], side: int) -> torch.Tensor:
    """N x 3 x 3. Inverses of the operations, multiplied in the order in which they happen."""
    zero, one = torch.zeros_like(v["flip"]), torch.ones_like(v["flip"])

    def rows(*six):
        return torch.stack([*six, zero, zero, one], 1).view(-1, 3, 3)

    def scale(x, y):  # the picture grows by 1 / x and 1 / y
        return rows(x, zero, zero, zero, y, zero)

    def turn(angle):  # the picture turns counter-clockwise
        return rows(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)

    def move(x, y):  # the picture moves to the right and downwards
        return rows(one, zero, -x, zero, one, -y)

    zoom, stretch = torch.exp2(-v["zoom"]), torch.exp2(-v["stretch"])
    steps = (
        scale(1 - 2 * v["flip"], one),
        turn(v["quarters"] * (math.pi / 2)),
        move(*(v["shift"] * side).round() * (2 / side)),
        scale(zoom, zoom),
        turn(v["turn_before"]),
        scale(stretch, 1 / stretch),
        turn(v["turn_after"]),
        move(*v["drift"] * 2),
    )
    return functools.reduce(torch.matmul, steps)


def _colour(v: dict[str, torch.Tensor]) -> torch.Tensor:
    """N x 4 x 4. Every factor is exactly the identity where its parameter is 0."""
    names = ("brightness", "contrast", "luma_flip", "hue", "saturation")
    brightness, contrast, flip, hue, saturation = (v[name][:, None, None] for name in names)
    one = torch.eye(3, device=hue.device)
    luma = torch.full_like(one, 1 / 3)  # v v^T of the luma axis v = (1, 1, 1) / sqrt(3)
    cross = (one.roll(1, 0) - one.roll(1, 1)) / math.sqrt(3)  # cross @ c = v x c
    linear = torch.exp2(contrast) * one
    linear = (one - 2 * flip * luma) @ linear
    linear = (one + (hue.cos() - 1) * (one - luma) + hue.sin() * cross) @ linear
    linear = (one + (torch.exp2(saturation) - 1) * (one - luma)) @ linear
    offset = linear.sum(2, keepdim=True) * brightness  # it is added before the others act
    last = one.new_tensor([0, 0, 0, 1]).expand(len(hue), 1, 4)
    return torch.cat([torch.cat([linear, offset], 2), last], 1)


# ----- applying them (appendix B)


@torch.autocast("cuda", enabled=False)  # half precision would misplace pixels
@torch.autocast("cpu", enabled=False)
def apply(images: torch.Tensor, geometry: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Images N x 3 x R x R under the matrices of `draw`, in their own dtype; twice differentiable.

    Computed in float32, or float64 where the images are. Raises ValueError for other shapes.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not 2 <= images.shape[2] == images.shape[3]:
        raise ValueError(f"expected square images N x 3 x R x R, got {tuple(images.shape)}")
    x = images if images.dtype == torch.float64 else images.float()
    geometry, colour = geometry.to(x), colour.to(x)  # device and dtype
    side = images.shape[-1]

    source = _source(geometry, torch.arange(side, device=x.device, dtype=x.dtype), side)
    on_grid = (source - source.round()).abs().amax((1, 2)) < 1e-3
    # a picture shrunk by a whole factor is on the grid too, but copying every third pixel aliases
    on_grid &= geometry[:, :2, :2].abs().amax((1, 2)) < 1 + 1e-3
    y = _pick(x, *_reflect(source.round().long(), side).unbind(1)).view_as(x)
    rest = (~on_grid).nonzero()[:, 0]
    if len(rest):
        part = _resample(x.index_select(0, rest), geometry.index_select(0, rest))
        y = y.index_copy(0, rest, part)
    y = torch.baddbmm(colour[:, :3, 3:], colour[:, :3, :3], y.flatten(2))
    return y.view_as(x).to(images.dtype)


def _source(geometry, at, side):
    """N x 2 x A^2: x and y, in pixels of the input, of the pixels of the output at `at` x `at`."""
    y, x = torch.meshgrid((2 * at - (side - 1)) / side, (2 * at - (side - 1)) / side, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    return (geometry[:, :2] @ grid * side + (side - 1)) / 2


def _reflect(i, side):
    """Pixels (integers) beyond the border -> those they mirror; the border pixel is not doubled."""
    i = i % (2 * side - 2)
    return torch.minimum(i, 2 * side - 2 - i)


def _pick(x, column, row):
    """x N x C x H x W at `column`, `row` N x A -> N x C x A."""
    index = (row * x.shape[3] + column)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index)


def _resample(x, geometry):
    """Enlarge x2 by SYM6, warp bilinearly, shrink x2 by its mirror image."""
    n, c, side, _ = x.shape
    enlarge, shrink = _filters(side, x)
    fine = enlarge @ x @ enlarge.T  # N x C x P x P
    period = fine.shape[-1]
    # sample k of the enlarged image lies at pixel (k - CENTRE) / 2
    at = (torch.arange(shrink.shape[1], device=x.device, dtype=x.dtype) - CENTRE) / 2
    source = 2 * _source(geometry, at, side) + CENTRE
    low = source.floor()
    right, down = (source - low)[:, :, None].unbind(1)
    low = low.long() % period
    (x0, y0), (x1, y1) = low.unbind(1), ((low + 1) % period).unbind(1)
    above = torch.lerp(_pick(fine, x0, y0), _pick(fine, x1, y0), right)
    below = torch.lerp(_pick(fine, x0, y1), _pick(fine, x1, y1), right)
    return shrink @ torch.lerp(above, below, down).view(n, c, len(at), len(at)) @ shrink.T


def _filters(side, like):
    """P x R and R x K: reflection and enlargement, and shrinking, along one axis.

    The reflected image has a period of 2 R - 2 pixels, so one period of it, enlarged, is all that
    any warp can reach. As matrices because these are fast on every device and need no padding.
    """
    taps = torch.tensor(SYM6, device=like.device, dtype=like.dtype)
    period = 4 * side - 4
    k = torch.arange(period, device=like.device)[:, None]
    j = k % 2 + torch.arange(0, len(SYM6), 2, device=like.device)  # taps that meet a pixel
    enlarge = like.new_zeros(period, side)
    enlarge.scatter_add_(1, _reflect((k - j) // 2, side), taps[j] * math.sqrt(2))
    shrink = like.new_zeros(side, 2 * side + len(SYM6) - 2)
    i = torch.arange(side, device=like.device)[:, None]
    j = torch.arange(len(SYM6), device=like.device).expand(side, -1)
    shrink.scatter_(1, 2 * i + j, (taps / math.sqrt(2)).expand(side, -1))
    return enlarge, shrink


# ----- how much (section 3)


class Controller:
    """p, moved so that r_t = E sign D(real) (Eq. 1) stays at `target`.

    target: the paper's 0.6. images: how many p needs from 0 to 1.
    """

    EVERY = 4  # updates between two moves of p

    def __init__(self, target: float = 0.6, images: float = 500_000):
        self.target, self.images = target, images
        self.p = 0.0
        self._updates, self._seen = 0, 0
        self._signs: float | torch.Tensor = 0.0

    def update(self, sign_real: float | torch.Tensor, batch: int) -> None:
        """Take the mean of sign D(x) over `batch` real images (of all processes of the run)."""
        if isinstance(sign_real, torch.Tensor):
            sign_real = sign_real.detach()  # stays on its device: reading it would wait for it
        self._signs = self._signs + sign_real * batch
        self._seen += batch
        self._updates += 1
        if self._updates == self.EVERY:
            r_t = float(self._signs) / self._seen
            direction = (r_t > self.target) - (r_t < self.target)
            self.p = min(max(self.p + direction * self._seen / self.images, 0.0), 1.0)
            self._updates, self._seen, self._signs = 0, 0, 0.0

    def state(self) -> dict[str, float | int]:
        """What a resumed run needs; the target is a setting and not among it."""
        signs = float(self._signs)
        return {"p": self.p, "updates": self._updates, "seen": self._seen, "signs": signs}

    def load_state(self, state: dict[str, float | int]) -> None:
        """Go on from `state()`."""
        self.p, self._signs = float(state["p"]), float(state["signs"])
        self._updates, self._seen = int(state["updates"]), int(state["seen"])
