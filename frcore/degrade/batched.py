"""The batched operators of degradation: a function `apply_KIND` a kind of step, on any device.

Resizing and separable blurs are products with small matrices, one pair per image: a batch of
faces that shrink to different sides is then two batched products. Faces of different sides share
one canvas, each in its upper left corner; what lies outside is never read.

Operators follow the libraries the papers used: OpenCV (blurs, resizing without anti-aliasing),
Pillow (anti-aliased resizing), libjpeg (JPEG), PULSE (bicubic with reflected border).

N batch, C channels, H height, W width, S side of the canvas, K kernel side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch.nn import functional as F

from frcore.degrade.colour import jitter, luma
from frcore.degrade.draw import Pairs
from frcore.degrade.jpeg import jpeg_on_canvas, take, to_bytes
from frcore.degrade.kernels import (
    anisotropic_kernel,
    box_matrix,
    gaussian_matrix,
    motion_kernel,
    reflect,
)
from frcore.degrade.resample import resample_matrix
from frcore.degrade.steps import (
    BaseStep,
    Blur,
    ColourShift,
    Down,
    Gray,
    Jitter,
    Jpeg,
    Learned,
    Noise,
    Up,
)

_APPLY: dict[str, Callable] = {}  # kind of step -> its apply function


def applies(step: type[BaseStep]) -> Callable:
    """Decorator: the function carries out `step`, a class of frcore/degrade/steps.py.

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


def of_kind(kind: str) -> Callable:
    """The batched function of a kind of step."""
    return _APPLY[kind]


def generator(seed: tuple[int, int]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@dataclass
class State:
    """What the steps work on: N faces on one canvas, each `sides[i]` pixels, upper left."""

    images: torch.Tensor  # N x 3 x S x S
    truth: torch.Tensor  # N x 3 x size x size
    sides: list[int]
    size: int
    learned: Mapping[str, Pairs]


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
def apply_learned(state: State, step: Learned, chosen, drawn, seeds) -> torch.Tensor:
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
def apply_gray(state: State, step: Gray, chosen, drawn, seeds) -> torch.Tensor:
    """Luma in all channels; `both` changes the truth too."""
    if step.both:
        gray = luma(_pick(state.truth, chosen)).expand(-1, 3, -1, -1)
        state.truth = _put(state.truth, chosen, to_bytes(gray) / 255)
    return _put(state.images, chosen, luma(_pick(state.images, chosen)).expand(-1, 3, -1, -1))


@applies(Blur)
def apply_blur(state: State, step: Blur, chosen, drawn, seeds) -> torch.Tensor:
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
                    matrices.append(box_matrix(side, p["kernel_px"]))
                else:
                    matrices.append(gaussian_matrix(side, p["sigma_px"], p["kernel_px"]))
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
    index = torch.as_tensor(np.stack([reflect(reach, own) for own in sides]))
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
def apply_down(state: State, step: Down, chosen, drawn, seeds) -> torch.Tensor:
    """Each face to its drawn side."""
    matrices = [np.eye(side) for side in state.sides]
    for i, p in zip(chosen, drawn):
        matrices[i] = resample_matrix(state.sides[i], p["side_px"], p["filter"], p["antialias"])
    state.sides = [len(matrix) for matrix in matrices]
    return _separable(state.images, matrices)


@applies(Up)
def apply_up(state: State, step: Up, chosen, drawn, seeds) -> torch.Tensor:
    """All faces to the recipe's side."""
    matrices = [resample_matrix(s, state.size, step.filter, step.antialias) for s in state.sides]
    state.sides = [state.size] * len(matrices)
    return _separable(state.images, matrices)


def noise_field(seed: tuple[int, int], side: int, drawn: dict) -> np.ndarray:
    """What a step `noise` adds: side x side x 3, or x 1 for all channels, in levels of 255."""
    channels = 3 if drawn["per_channel"] else 1
    field = generator(seed).standard_normal((side, side, channels))
    field *= drawn["std_255"]
    return field


@applies(Noise)
def apply_noise(state: State, step: Noise, chosen, drawn, seeds) -> torch.Tensor:
    """Drawn by numpy for each face at its own side: the same on every device, in every batch."""
    canvas = state.images.shape[-1]
    noise = np.zeros((len(chosen), 3, canvas, canvas), dtype=np.float64)
    for slot, i, p, seed in zip(noise, chosen, drawn, seeds):
        side = state.sides[i]
        slot[:, :side, :side] = noise_field(seed, side, p).transpose(2, 0, 1) / 255
    added = torch.as_tensor(noise).to(state.images.dtype).to(state.images.device)
    noisy = _pick(state.images, chosen) + added
    return _put(state.images, chosen, noisy.clamp(0, 1) if step.clip else noisy)


@applies(Jpeg)
def apply_jpeg(state: State, step: Jpeg, chosen, drawn, seeds) -> torch.Tensor:
    """libjpeg step by step, batched."""
    some = to_bytes(_pick(state.images, chosen))
    quality = [p["quality"] for p in drawn]
    sides = [state.sides[i] for i in chosen]
    sizes = [(side, side) for side in sides]
    decoded = jpeg_on_canvas(some, quality, sizes, step.subsampling, "straight_through")
    return _put(state.images, chosen, decoded / 255)


@applies(ColourShift)
def apply_colour_shift(state: State, step: ColourShift, chosen, drawn, seeds) -> torch.Tensor:
    """One number added per channel."""
    some = _pick(state.images, chosen)
    shift = torch.tensor([p["shift_255"] for p in drawn], dtype=torch.float64)
    shift = shift.to(some.dtype).to(some.device)[:, :, None, None]
    return _put(state.images, chosen, (some + shift / 255).clamp(0, 1))


@applies(Jitter)
def apply_jitter(state: State, step: Jitter, chosen, drawn, seeds) -> torch.Tensor:
    """Each face in its own order of operations; at every place faces of one operation together."""
    sides = [state.sides[i] for i in chosen]
    if step.both:
        whole = [state.size] * len(chosen)
        true = _varied(_pick(state.truth, chosen), drawn, whole)
        state.truth = _put(state.truth, chosen, to_bytes(true) / 255)
    return _put(state.images, chosen, _varied(_pick(state.images, chosen), drawn, sides))


def _varied(images: torch.Tensor, drawn: Sequence[dict], sides: Sequence[int]) -> torch.Tensor:
    for names in zip(*(parameters["order"] for parameters in drawn)):
        for name in sorted(set(names)):
            rows = [k for k, own in enumerate(names) if own == name]
            amounts = [float(drawn[k][name]) for k in rows]
            changed = jitter(_pick(images, rows), name, amounts, [sides[k] for k in rows])
            images = _put(images, rows, changed)
    return images
