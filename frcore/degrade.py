"""Make degraded faces: draw parameters, apply them to batches, write test sets and contact sheets.

`draw` decides what happens to one image, `degrade_batch` does it to many at once, each with its own
parameters. Two codecs: "simulated" JPEG runs batched on any device and passes gradients (training,
SAIR); "real" JPEG is Pillow's libjpeg, in float64 on the CPU (test sets). Both are in jpeg.py.

Resizing and separable blurs are products with small matrices, one pair per image: a batch of
faces that shrink to different sides is then two batched products. Faces of different sides share
one canvas, each in its upper left corner; what lies outside is never read.

Operators follow the libraries the papers used: OpenCV (blurs, resizing without anti-aliasing),
Pillow (anti-aliased resizing), libjpeg (JPEG), PULSE (bicubic with reflected border).

N batch, C channels, H height, W width, S side of the canvas, K kernel side.
"""

import csv
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from frcore import images as image_files
from frcore import seeds
from frcore.jpeg import LUMA, jpeg_on_canvas, jpeg_real, take, to_bytes
from frcore.recipes import (
    RESIZE_FILTERS,
    Blur,
    ColourShift,
    Down,
    Gray,
    Jitter,
    Jpeg,
    Learned,
    Noise,
    Recipe,
    Up,
    check_pulse_factor,
)

# (seeds, truncation) -> clean and degraded faces, N x 3 x S x S in [0, 1]: what a trained
# degradation model gives to the step `learned`
Pairs = Callable[[Sequence[int], float], tuple[torch.Tensor, torch.Tensor]]

# ---------------------------------------------------------------------------------------------
# Drawing


def draw(recipe: Recipe, rng: np.random.Generator, for_test: bool = False) -> dict:
    """Parameters of one image: {"noise_seed": int, "steps": [dict or None per step of `recipe`]}.

    None marks a step that does not happen. The dict holds plain numbers and text, so that JSON
    keeps it exactly. `for_test` leaves out grey steps that would change the truth: a test set has
    one truth for all presets. The other parameters do not depend on `for_test`.
    Raises ValueError for a test set of a recipe that makes its own true faces (step `learned`).
    """
    if recipe.learned and for_test:
        raise ValueError(
            f"pairs of {recipe.learned} have a truth of their own: no test set can be made of them"
        )
    steps: list[dict | None] = []
    noise_seed = int(rng.integers(2**48))
    side = recipe.size
    for step in recipe.steps:
        drawn = step.draw(rng, side, for_test) if rng.random() < step.p else None
        if drawn is not None:
            side = step.side_after(side, drawn, recipe.size)
        steps.append(drawn)
    return {"noise_seed": noise_seed, "steps": steps}


# ---------------------------------------------------------------------------------------------
# Kernels


def gaussian_taps(sigma_px: float, kernel_px: int) -> np.ndarray:
    """float64 K weights that sum to 1; sigma 0 is the identity."""
    offsets = np.arange(kernel_px) - (kernel_px - 1) / 2
    if sigma_px < 1e-3:
        return (offsets == 0).astype(np.float64)
    taps = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    return taps / taps.sum()


def anisotropic_kernel(
    sigma_x_px: float, sigma_y_px: float, angle_rad: float, kernel_px: int
) -> np.ndarray:
    """float64 K x K, sums to 1: exp(-u' S^-1 u / 2), S = R(angle) diag(sigma^2) R(angle)'.

    GFP-GAN's kernel. Sigmas below 0.001 px are taken as 0.001 px.
    """
    grid = np.arange(kernel_px) - (kernel_px - 1) / 2
    y, x = np.meshgrid(grid, grid, indexing="ij")
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    along = (cos * x + sin * y) / max(sigma_x_px, 1e-3)
    across = (cos * y - sin * x) / max(sigma_y_px, 1e-3)
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return kernel / kernel.sum()


def motion_kernel(kernel_px: int, angle_deg: float, direction: float) -> np.ndarray:
    """float64 K x K, sums to 1: an upright line, weights d to 1-d with d = (direction + 1) / 2,

    turned about the centre with bilinear interpolation (PSFR-GAN's training data, after imgaug).
    """
    start = (direction + 1) / 2
    line = np.zeros((kernel_px, kernel_px))
    line[:, kernel_px // 2] = np.linspace(start, 1 - start, kernel_px)
    centre = (kernel_px - 1) / 2
    y, x = np.meshgrid(np.arange(kernel_px) - centre, np.arange(kernel_px) - centre, indexing="ij")
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    from_x, from_y = cos * x + sin * y + centre, cos * y - sin * x + centre
    kernel = np.zeros_like(line)
    left, top = np.floor(from_x).astype(int), np.floor(from_y).astype(int)
    for row in (0, 1):
        for column in (0, 1):
            weight = np.abs(1 - row - (from_y - top)) * np.abs(1 - column - (from_x - left))
            r, c = top + row, left + column
            inside = (r >= 0) & (r < kernel_px) & (c >= 0) & (c < kernel_px)
            kernel[inside] += weight[inside] * line[r[inside], c[inside]]
    return kernel / kernel.sum()


def _reflect(index: np.ndarray, side: int) -> np.ndarray:
    """Fold indices into 0..side-1 as OpenCV's reflect-101 border does: dcb|abcd|cba."""
    if side == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * side - 2)
    return np.where(folded >= side, 2 * side - 2 - folded, folded)


@functools.lru_cache(maxsize=256)
def _gaussian_matrix(side: int, sigma_px: float, kernel_px: int) -> np.ndarray:
    return _blur_matrix(side, gaussian_taps(sigma_px, kernel_px))


@functools.lru_cache(maxsize=64)
def _box_matrix(side: int, kernel_px: int) -> np.ndarray:
    return _blur_matrix(side, np.full(kernel_px, 1 / kernel_px))


def _blur_matrix(side: int, taps: np.ndarray) -> np.ndarray:
    """side x side matrix that filters a line with `taps`, border reflected, anchor at len // 2."""
    matrix = np.zeros((side, side))
    rows = np.arange(side)
    for tap, weight in enumerate(taps):
        np.add.at(matrix, (rows, _reflect(rows + tap - len(taps) // 2, side)), weight)
    return matrix


# ---------------------------------------------------------------------------------------------
# Resizing


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def resample_matrix(source: int, target: int, filter: str, antialias: bool = False) -> np.ndarray:
    """float64 `target` x `source` matrix that resamples a line; its rows sum to 1.

    nearest, area, and bilinear or bicubic without `antialias` follow OpenCV (bicubic a = -0.75,
    border repeated); with `antialias` Pillow (a = -0.5, kernel widened by the factor, cut at the
    border). area averages the exact overlap, also when enlarging. pulse_bicubic: PULSE's operator.
    Raises ValueError for an unknown filter or impossible sides.
    """
    if source < 1 or target < 1:
        raise ValueError(f"sides must be positive, got {source} -> {target}")
    scale = source / target
    rows = np.arange(target)
    columns = np.arange(source)
    centres = (rows + 0.5) * scale - 0.5
    matrix = np.zeros((target, source))
    if filter == "nearest":
        matrix[rows, np.minimum(rows * source // target, source - 1)] = 1
    elif filter == "area":
        low, high = (rows * scale)[:, None], ((rows + 1) * scale)[:, None]
        matrix = np.clip(np.minimum(high, columns + 1) - np.maximum(low, columns), 0, None)
    elif filter == "pulse_bicubic":
        if source % target:
            raise ValueError(f"pulse_bicubic needs a whole factor, got {source} -> {target}")
        factor = source // target
        check_pulse_factor(source, factor)
        taps = np.arange(4 * factor)
        weights = _cubic((taps - 2 * factor + 0.5) / factor, -0.5)
        for tap, weight in zip(taps, weights / weights.sum()):
            reached = _reflect(rows * factor + tap - 3 * factor // 2, source)
            np.add.at(matrix, (rows, reached), weight)
    elif filter in ("bilinear", "bicubic") and antialias:
        distance = (columns - centres[:, None]) / max(scale, 1.0)
        matrix = _triangle(distance) if filter == "bilinear" else _cubic(distance, -0.5)
    elif filter in ("bilinear", "bicubic"):
        base = np.floor(centres).astype(int)
        for tap in range(-1, 3):
            distance = base + tap - centres
            weight = _triangle(distance) if filter == "bilinear" else _cubic(distance, -0.75)
            np.add.at(matrix, (rows, np.clip(base + tap, 0, source - 1)), weight)
    else:
        raise ValueError(f"unknown filter {filter!r}; known: {', '.join(RESIZE_FILTERS)}")
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(
    images: torch.Tensor, size: int | tuple[int, int], filter: str, antialias: bool = False
) -> torch.Tensor:
    """N x C x H x W -> N x C x `size` (side, or height and width); see `resample_matrix`.

    Differentiable; not clipped, so bicubic may leave [0, 1].
    """
    height, width = (size, size) if isinstance(size, int) else size
    if images.ndim != 4:
        raise ValueError(f"images: expected N x C x H x W, got {tuple(images.shape)}")
    like = {"device": images.device, "dtype": images.dtype}
    rows = torch.as_tensor(resample_matrix(images.shape[2], height, filter, antialias), **like)
    columns = torch.as_tensor(resample_matrix(images.shape[3], width, filter, antialias), **like)
    return rows @ (images @ columns.T)


def pulse_bicubic_down(images: torch.Tensor, factor: int) -> torch.Tensor:
    """N x C x H x W -> N x C x H/factor x W/factor with the operator of PULSE and SAIR.

    Anti-aliased Keys cubic (a = -0.5, 4 * factor taps per axis), border reflected. Differentiable,
    not clipped. Raises ValueError unless the factor is even, divides both sides and is small enough
    for the border to be reflected.
    """
    for side in images.shape[2:]:
        check_pulse_factor(side, factor)
    size = (images.shape[2] // factor, images.shape[3] // factor)
    return resize(images, size, "pulse_bicubic")


def undo_enlarging(
    images: torch.Tensor, side: int, filter: str, antialias: bool = False
) -> torch.Tensor:
    """The `side` x `side` pictures whose enlargement is `images` N x C x H x W (least squares).

    Exact but for rounding and clipping: a method that wants the small picture (SAIR) gets it back
    from the enlarged one that every method is given.
    """
    like = {"device": images.device, "dtype": images.dtype}
    inverse = [
        torch.as_tensor(np.linalg.pinv(resample_matrix(side, length, filter, antialias)), **like)
        for length in images.shape[2:]
    ]
    return (inverse[0] @ (images @ inverse[1].T)).clamp(0, 1)


# ---------------------------------------------------------------------------------------------
# Colour


def luma(images: torch.Tensor) -> torch.Tensor:
    """N x 3 x H x W -> N x 1 x H x W, BT.601."""
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def shift_hue(images: torch.Tensor, turns: float) -> torch.Tensor:
    """Turn the hue by `turns` of a full circle at constant HSV saturation and value.

    N x 3 x H x W in [0, 1] -> same.
    """
    value, _ = images.max(dim=1)
    spread = value - images.min(dim=1).values
    red, green, blue = images.unbind(1)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turns
    # the closed form of HSV -> RGB: one triangle wave per channel
    channels = []
    for offset in (5, 3, 1):
        k = (offset + sector) % 6
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _jitter_one(images: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    """One photometric operation on 1 x 3 x H x W in [0, 1]; definitions of torchvision."""
    if name == "brightness":
        changed = images * amount
    elif name == "hue":
        changed = shift_hue(images, amount)
    else:
        gray = luma(images)
        if name == "contrast":
            gray = gray.mean(dim=(2, 3), keepdim=True)
        changed = gray + amount * (images - gray)
    return changed.clamp(0, 1)


# ---------------------------------------------------------------------------------------------
# Applying


_APPLY: dict[str, Callable] = {}  # kind of step -> its apply function


def applies(step: type) -> Callable:
    """Decorator: the function carries out `step`, a class of frcore/recipes.py.

    It is called `apply_KIND` (`Recipe.code` relies on it) and called with (state, step, chosen,
    drawn, seeds): the faces so far; the recipe's step; indices of the faces that it happens to; for
    each of those what `step.draw` drew, and a seed of its own (two numbers) for `_generator`.
    It gives all images after the step, N x 3 x S x S, and may change the other parts of `state`.
    Raises ValueError for a function of another name.
    """
    (kind,) = get_args(step.model_fields["kind"].annotation)

    def register(function: Callable) -> Callable:
        if function.__name__ != f"apply_{kind}":
            raise ValueError(f"{function.__name__} applies {kind}: call it apply_{kind}")
        _APPLY[kind] = function
        return function

    return register


def _generator(seed: tuple[int, int]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@dataclass
class _State:
    """What the steps work on: N faces on one canvas, each `sides[i]` pixels, upper left."""

    images: torch.Tensor  # N x 3 x S x S
    truth: torch.Tensor  # N x 3 x size x size
    sides: list[int]
    size: int
    codec: str
    learned: Mapping[str, Pairs]


def degrade_batch(
    images: torch.Tensor,
    recipe: Recipe,
    params: Sequence[dict],
    codec: str = "simulated",
    learned: Mapping[str, Pairs] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Degraded faces and their truth, both N x 3 x S x S in [0, 1] like `images`.

    `params`: one result of `draw` per image. The degraded faces are multiples of 1/255. The truth
    is `images`, but for faces whose recipe makes both grey or begins with the step `learned`: then
    `learned` {entry: Pairs} makes the truth, and `images` says only how many, where and of which
    type. codec "simulated": any device, gradients pass (roundings count as identity, clipped values
    have none); an image's result depends on its batch by float rounding only. codec "real":
    libjpeg, float64, CPU, no gradient.
    Raises ValueError for images that are not square or not of the recipe's size, for values outside
    [0, 1], a wrong number of `params`, `params` of another recipe, an unknown codec, or a model of
    the recipe that is not in `learned` or makes faces of another size.
    """
    image_files.check_images(images.detach())
    if images.shape[2:] != (recipe.size, recipe.size):
        raise ValueError(
            f"the recipe is for faces of {recipe.size} x {recipe.size} px, got "
            f"{images.shape[2]} x {images.shape[3]}"
        )
    if len(params) != len(images):
        raise ValueError(f"{len(params)} parameter sets for {len(images)} images")
    if any(len(drawn["steps"]) != len(recipe.steps) for drawn in params):
        raise ValueError("the parameters were drawn from another recipe: numbers of steps differ")
    if codec not in ("simulated", "real"):
        raise ValueError(f"unknown codec {codec!r}; known: simulated, real")

    work = images.detach().cpu().double() if codec == "real" else images
    state = _State(work, work, [recipe.size] * len(images), recipe.size, codec, learned or {})
    for index, step in enumerate(recipe.steps):
        chosen = [i for i, drawn in enumerate(params) if drawn["steps"][index] is not None]
        if not chosen:
            continue
        drawn = [params[i]["steps"][index] for i in chosen]
        numbers = [(params[i]["noise_seed"], index) for i in chosen]
        changed = _APPLY[step.kind](state, step, chosen, drawn, numbers)
        if recipe.eight_bit:
            changed = to_bytes(changed) / 255
        state.images = changed
    degraded = to_bytes(state.images) / 255
    return tuple(t.to(images.device, images.dtype) for t in (degraded, state.truth))


def _put(images: torch.Tensor, chosen: list[int], changed: torch.Tensor) -> torch.Tensor:
    """`images` with the rows `chosen` replaced."""
    if len(chosen) == len(images):
        return changed
    return images.index_copy(0, torch.tensor(chosen, device=images.device), changed)


def _pick(images: torch.Tensor, chosen: list[int]) -> torch.Tensor:
    if len(chosen) == len(images):
        return images
    return images[torch.tensor(chosen, device=images.device)]


def _separable(images: torch.Tensor, matrices: Sequence[np.ndarray]) -> torch.Tensor:
    """M X M' per image and channel: N x 3 x S x S, N matrices O_i x I_i -> N x 3 x max(O)^2."""
    n, c, side, _ = images.shape
    out = max(len(matrix) for matrix in matrices)
    padded = np.zeros((n, out, side), dtype=np.float64)
    for slot, matrix in zip(padded, matrices):
        slot[: matrix.shape[0], : matrix.shape[1]] = matrix
    m = torch.as_tensor(padded).to(images.dtype).to(images.device)
    across = torch.bmm(images.reshape(n, c * side, side), m.transpose(1, 2))  # N x C*S x O
    across = across.reshape(n, c, side, out).transpose(1, 2).reshape(n, side, c * out)
    return torch.bmm(m, across).reshape(n, out, c, out).transpose(1, 2)


@applies(Learned)
def apply_learned(state: _State, step: Learned, chosen, drawn, seeds) -> torch.Tensor:
    """Generated pairs in the faces' place, as if read from 8-bit files; changes the truth."""
    if step.model not in state.learned:
        raise ValueError(f"the recipe needs the trained degradation model {step.model!r}")
    made = state.learned[step.model]([p["seed"] for p in drawn], step.truncation)
    # 8-bit values, as if the two were read from files
    clean, degraded = (to_bytes(part.to(state.images)) / 255 for part in made)
    if clean.shape[-1] != state.size:
        raise ValueError(
            f"{step.model} makes faces of {clean.shape[-1]} px, the recipe is for {state.size} px"
        )
    state.truth = _put(state.truth, chosen, clean)
    return _put(state.images, chosen, degraded if step.image == "degraded" else clean)


@applies(Gray)
def apply_gray(state: _State, step: Gray, chosen, drawn, seeds) -> torch.Tensor:
    """Luma in all channels; `both` changes the truth too."""
    if step.both:
        gray = luma(_pick(state.truth, chosen)).expand(-1, 3, -1, -1)
        state.truth = _put(state.truth, chosen, to_bytes(gray) / 255)
    return _put(state.images, chosen, luma(_pick(state.images, chosen)).expand(-1, 3, -1, -1))


@applies(Blur)
def apply_blur(state: _State, step: Blur, chosen, drawn, seeds) -> torch.Tensor:
    """Faces of one sort of shape together: products, convolutions, medians of one width."""
    images = state.images
    groups: dict[str, list[int]] = {}
    for k, parameters in enumerate(drawn):
        shape = parameters["shape"]
        kind = {"gaussian": "separable", "box": "separable", "median": "median"}.get(shape, "plane")
        key = f"median {parameters['kernel_px']}" if kind == "median" else kind
        groups.setdefault(key, []).append(k)
    for key, members in groups.items():
        rows = [chosen[k] for k in members]
        some = _pick(images, rows)
        sides = [state.sides[i] for i in rows]
        if key == "separable":
            matrices = []
            for k, side in zip(members, sides):
                p = drawn[k]
                if p["shape"] == "box":
                    matrices.append(_box_matrix(side, p["kernel_px"]))
                else:
                    matrices.append(_gaussian_matrix(side, p["sigma_px"], p["kernel_px"]))
            blurred = _separable(some, matrices)
            grown = some.shape[-1] - blurred.shape[-1]
            blurred = F.pad(blurred, (0, grown, 0, grown))
        elif key == "plane":
            blurred = _filter_planes(some, [_plane_kernel(drawn[k]) for k in members], sides)
        else:
            blurred = _median(some, drawn[members[0]]["kernel_px"], sides)
        images = _put(images, rows, blurred)
    return images


def _plane_kernel(parameters: dict) -> np.ndarray:
    kernel_px = parameters["kernel_px"]
    if parameters["shape"] == "motion":
        return motion_kernel(kernel_px, parameters["angle_deg"], parameters["direction"])
    sigma_x, sigma_y = parameters["sigma_px"], parameters["sigma_y_px"]
    return anisotropic_kernel(sigma_x, sigma_y, parameters["angle_rad"], kernel_px)


def _filter_planes(images: torch.Tensor, kernels: list[np.ndarray], sides) -> torch.Tensor:
    """Each face with its own odd kernel, border reflected.

    One grouped convolution; for wide kernels a product of spectra, which costs the same whatever
    their width: 41 px at 512 px takes 50 ms in place of 12 s in float64.
    """
    n, c, side, _ = images.shape
    widest = max(len(kernel) for kernel in kernels)
    weights = np.zeros((n, widest, widest))
    for slot, kernel in zip(weights, kernels):
        edge = (widest - len(kernel)) // 2
        slot[edge : edge + len(kernel), edge : edge + len(kernel)] = kernel
    reach = np.arange(-(widest // 2), side + widest // 2)
    index = torch.as_tensor(np.stack([_reflect(reach, own) for own in sides]))
    padded = take(images, index, index)
    w = torch.as_tensor(weights).to(images.dtype).to(images.device)
    if widest > 7:
        # the spectra's product turns the kernel around, a convolution layer does not
        size = padded.shape[2:]
        spectra = torch.fft.rfft2(padded) * torch.fft.rfft2(w.flip(1, 2), s=size)[:, None]
        return torch.fft.irfft2(spectra, s=size)[:, :, widest - 1 :, widest - 1 :]
    w = w[:, None].repeat_interleave(c, dim=0)  # NC x 1 x K x K
    filtered = F.conv2d(padded.reshape(1, n * c, *padded.shape[2:]), w, groups=n * c)
    return filtered.reshape(n, c, side, side)


def _median(images: torch.Tensor, kernel_px: int, sides: Sequence[int]) -> torch.Tensor:
    reach = torch.arange(-(kernel_px // 2), images.shape[-1] + kernel_px // 2).clamp(min=0)
    index = reach.minimum(torch.tensor(list(sides))[:, None] - 1)
    return median_valid(take(images, index, index), kernel_px)


def median_valid(images: torch.Tensor, kernel_px: int) -> torch.Tensor:
    """Median of each full K x K window: N x C x H x W -> N x C x H-K+1 x W-K+1, K odd."""
    if kernel_px % 2 == 0:
        raise ValueError(f"kernel_px must be odd, got {kernel_px}")
    height, width = images.shape[2] - kernel_px + 1, images.shape[3] - kernel_px + 1
    shifted = [
        images[:, :, y : y + height, x : x + width]
        for y in range(kernel_px)
        for x in range(kernel_px)
    ]
    if kernel_px != 3:
        return torch.stack(shifted, dim=-1).median(dim=-1).values
    # Nine values: sort columns; the median is the median of the largest low, the middle middle and
    # the smallest high. Ten times faster than a general median on small faces.
    lows, middles, highs = zip(*(_sort3(*shifted[i::3]) for i in range(3)))
    low = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    high = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return _sort3(low, _sort3(*middles)[1], high)[1]


def _sort3(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    b, c = torch.minimum(b, c), torch.maximum(b, c)
    return torch.minimum(a, b), torch.maximum(a, b), c


@applies(Down)
def apply_down(state: _State, step: Down, chosen, drawn, seeds) -> torch.Tensor:
    """Each face to its drawn side."""
    matrices = [np.eye(side) for side in state.sides]
    for i, p in zip(chosen, drawn):
        matrices[i] = resample_matrix(state.sides[i], p["side_px"], p["filter"], p["antialias"])
    state.sides = [len(matrix) for matrix in matrices]
    return _separable(state.images, matrices)


@applies(Up)
def apply_up(state: _State, step: Up, chosen, drawn, seeds) -> torch.Tensor:
    """All faces to the recipe's side."""
    matrices = [resample_matrix(s, state.size, step.filter, step.antialias) for s in state.sides]
    state.sides = [state.size] * len(matrices)
    return _separable(state.images, matrices)


@applies(Noise)
def apply_noise(state: _State, step: Noise, chosen, drawn, seeds) -> torch.Tensor:
    """Drawn by numpy for each face at its own side: the same on every device, in every batch."""
    canvas = state.images.shape[-1]
    noise = np.zeros((len(chosen), 3, canvas, canvas), dtype=np.float64)
    for slot, i, p, seed in zip(noise, chosen, drawn, seeds):
        side = state.sides[i]
        field = _generator(seed).standard_normal((3 if p["per_channel"] else 1, side, side))
        slot[:, :side, :side] = field * (p["std_255"] / 255)
    added = torch.as_tensor(noise).to(state.images.dtype).to(state.images.device)
    noisy = _pick(state.images, chosen) + added
    return _put(state.images, chosen, noisy.clamp(0, 1) if step.clip else noisy)


@applies(Jpeg)
def apply_jpeg(state: _State, step: Jpeg, chosen, drawn, seeds) -> torch.Tensor:
    """The batched codec, or libjpeg face by face."""
    some = to_bytes(_pick(state.images, chosen))
    quality = [p["quality"] for p in drawn]
    sides = [state.sides[i] for i in chosen]
    if state.codec == "simulated":
        sizes = [(side, side) for side in sides]
        decoded = jpeg_on_canvas(some, quality, sizes, step.subsampling, "straight_through")
    else:
        decoded = some.clone()
        for slot, q, side in zip(decoded, quality, sides):
            pixels = slot[:, :side, :side].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
            through = torch.tensor(jpeg_real(pixels, q, step.subsampling), dtype=slot.dtype)
            slot[:, :side, :side] = through.permute(2, 0, 1)
    return _put(state.images, chosen, decoded / 255)


@applies(ColourShift)
def apply_colour_shift(state: _State, step: ColourShift, chosen, drawn, seeds) -> torch.Tensor:
    """One number added per channel."""
    some = _pick(state.images, chosen)
    shift = torch.tensor([p["shift_255"] for p in drawn], dtype=torch.float64)
    shift = shift.to(some.dtype).to(some.device)[:, :, None, None]
    return _put(state.images, chosen, (some + shift / 255).clamp(0, 1))


@applies(Jitter)
def apply_jitter(state: _State, step: Jitter, chosen, drawn, seeds) -> torch.Tensor:
    """Face by face, each in its own order of operations."""
    changed = []
    for i, parameters in zip(chosen, drawn):
        side = state.sides[i]
        face = state.images[i : i + 1, :, :side, :side]
        for name in parameters["order"]:
            face = _jitter_one(face, name, parameters[name])
        grown = state.images.shape[-1] - side
        changed.append(F.pad(face, (0, grown, 0, grown)))
    return _put(state.images, chosen, torch.cat(changed))


# ---------------------------------------------------------------------------------------------
# Test sets and contact sheets

COLUMNS = ("id", "side_px", "filter", "blur", "noise_std_255", "jpeg_quality", "parameters")


def summary(recipe: Recipe, drawn: dict) -> dict[str, str | int | float]:
    """What a reader wants to know of one draw: side_px, filter, blur, noise_std_255, jpeg_quality.

    A step that did not happen is an empty text.
    """
    row: dict = {"side_px": recipe.size} | dict.fromkeys(COLUMNS[2:-1], "")
    for step, p in zip(recipe.steps, drawn["steps"]):
        if p is not None:
            row |= step.summary(p)
    return row


def degrade_folder(
    faces: Sequence[tuple[str, str | Path]],
    out_dir: str | Path,
    out_csv: str | Path,
    recipe: Recipe,
    seed: int,
    dataset: str,
    preset: str,
    progress: bool = False,
) -> None:
    """Write a test set: `out_dir`/{id}.png per face, and a CSV with the parameters of each.

    `faces`: (id, path of a PNG of the recipe's size). An image depends on (seed, dataset, preset,
    id) and its pixels only; it is made alone, in float64 with the real codec, so the bytes are the
    same in any order and selection. Grey steps that would change the truth are left out. `out_dir`
    and `out_csv` are replaced as wholes, never half written.
    Raises ValueError for ids that repeat or are not plain file names, and for faces of another
    size.
    """
    ids = [name for name, _ in faces]
    if len(set(ids)) < len(ids):
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        raise ValueError(f"ids repeat: {repeated[:5]}")
    strange = [name for name in ids if not name or Path(name).name != name]
    if strange:
        raise ValueError(f"ids are not plain file names: {strange[:5]}")
    if progress:
        from tqdm import tqdm

        faces = tqdm(faces, desc=f"{dataset} {preset}", unit="face")
    with (
        image_files.atomic_output(out_csv) as part_csv,
        image_files.atomic_output(out_dir, folder=True) as part_dir,
        open(part_csv, "w", newline="") as file,
    ):
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for name, path in faces:
            drawn = draw(recipe, seeds.numpy_generator(seed, dataset, preset, name), True)
            degraded = _degrade_file(path, recipe, drawn)
            image_files.write_image(part_dir / f"{name}.png", degraded)
            text = json.dumps(drawn, separators=(",", ":"))
            table.writerow({"id": name, **summary(recipe, drawn), "parameters": text})


def _degrade_file(path: str | Path, recipe: Recipe, drawn: dict) -> np.ndarray:
    """One face file -> uint8 H x W x 3, real codec."""
    face = image_files.to_float(image_files.read_image(path))
    try:
        degraded, _ = degrade_batch(face, recipe, [drawn], codec="real")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return image_files.to_uint8(degraded)[0]


def contact_sheet(
    faces: Sequence[tuple[str, str | Path]],
    recipe: Recipe,
    preset: str,
    columns: int = 6,
    seed: int = 0,
    tile_px: int = 128,
) -> np.ndarray:
    """One preset at a glance: uint8 H x W x 3. A row per face: the truth, then `columns` draws.

    Below each tile stands what was drawn: blur, side and filter, noise, JPEG quality. Faces are
    shown at `tile_px` or more, enlarged by a whole factor without smoothing, or shrunk if larger.
    """
    if not faces:
        raise ValueError("a contact sheet needs at least one face")
    enlarge = max(1, round(tile_px / recipe.size))
    tile = min(recipe.size, max(tile_px, 256)) * enlarge
    caption, gap, title = 40, 4, 22
    size = ((columns + 1) * (tile + gap) + gap, len(faces) * (tile + caption + gap) + gap + title)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, gap), f"{preset}: {recipe.description}", fill="black", font_size=12)
    for row, (name, path) in enumerate(faces):
        top = title + row * (tile + caption + gap) + gap
        for column in range(columns + 1):
            left = gap + column * (tile + gap)
            if column == 0:
                pixels, text = image_files.read_image(path), f"truth\n{name[:20]}"
            else:
                rng = seeds.numpy_generator(seed, "contact sheet", preset, name, column)
                drawn = draw(recipe, rng, for_test=True)
                pixels, text = _degrade_file(path, recipe, drawn), _caption(recipe, drawn)
            shrink = tile < pixels.shape[0]
            how = Image.Resampling.BOX if shrink else Image.Resampling.NEAREST
            sheet.paste(Image.fromarray(pixels).resize((tile, tile), how), (left, top))
            pen.multiline_text((left, top + tile + 1), text, fill="black", font_size=10, spacing=1)
    return np.asarray(sheet)


def _caption(recipe: Recipe, drawn: dict) -> str:
    row = summary(recipe, drawn)
    noise, quality = row["noise_std_255"], row["jpeg_quality"]
    lines = [
        row["blur"] or "no blur",
        f"{row['side_px']} px {row['filter']}",
        ("no noise" if noise == "" else f"noise {noise:.1f}")
        + (", no JPEG" if quality == "" else f", JPEG {quality}"),
    ]
    return "\n".join(lines)
