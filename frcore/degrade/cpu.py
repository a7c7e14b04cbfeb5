"""Degraded faces on the CPU: one face at a time, by the operators of the image libraries.

The same steps as the batched operators of batched.py, which run where there is a GPU or a gradient
is wanted; tests tie the two. An operator is albumentations' own where it has one, else OpenCV's or
Pillow's. A kind of step without a function here goes through its batched one, alone.

The same bytes with any number of threads: whole numbers, or float64 that is rounded once, where a
half, which the last bit would decide, is never near (`NUDGE`).

S side of the face, H W C.
"""

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import cv2
import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import csr_matrix

from frcore.degrade import batched
from frcore.degrade.jpeg import LUMA, NUDGE, jpeg_real
from frcore.degrade.kernels import anisotropic_kernel, gaussian_taps, motion_kernel
from frcore.degrade.recipes import Recipe, Step
from frcore.degrade.resample import resample_matrix
from frcore.degrade.steps import (
    BaseStep,
    Blur,
    ColourShift,
    Down,
    Gray,
    Jitter,
    Jpeg,
    Noise,
    Up,
)

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network
import albumentations.augmentations.blur.functional as blurs
import albumentations.augmentations.pixel.functional as pixelwise

FIXED_POINT = 256  # steps of one level in which a Gaussian is summed
BLOCK_PX = 11  # of a kernel of few weights: OpenCV sums up to 11 x 11 float32 products directly
DENSE_PX = 128  # faces up to here are resampled by dense matrices, larger ones by sparse ones

_FACES: dict[str, Callable] = {}  # kind of step -> its function


def on_cpu(step: type[BaseStep]) -> Callable:
    """Decorator: the function carries out `step` on one face.

    It is called `face_KIND` (`Recipe.code` relies on it), takes (face, step, drawn, seed): a
    `_Face`, which it changes; the recipe's step; what `step.draw` drew; a seed of its own.
    Raises ValueError for a function of another name.
    """
    (kind,) = get_args(step.model_fields["kind"].annotation)

    def register(function: Callable) -> Callable:
        if function.__name__ != f"face_{kind}":
            raise ValueError(f"{function.__name__} applies {kind}: call it face_{kind}")
        _FACES[kind] = function
        return function

    return register


@dataclass
class _Face:
    """One face on its way: `pixels` S x S x 3 of 0..255, uint8 in an eight-bit recipe."""

    pixels: np.ndarray  # uint8 or float64
    truth: np.ndarray  # uint8 or float64, size x size x 3
    size: int

    def put(self, values: np.ndarray) -> None:
        """What a step made, rounded in an eight-bit recipe."""
        eight_bit = self.pixels.dtype == np.uint8 and values.dtype != np.uint8
        self.pixels = whole(values) if eight_bit else values


def whole(levels: np.ndarray) -> np.ndarray:
    """Levels of 0..255 -> uint8, clipped; halves go up, as in `jpeg.to_bytes`."""
    if levels.dtype == np.uint8:
        return levels
    halves_up = np.clip(levels, 0, 255)
    halves_up += 0.5 + NUDGE
    return halves_up.astype(np.uint8)


def degrade_face(
    pixels: np.ndarray, recipe: Recipe, drawn: dict, truth: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One degraded face, uint8 S x S x 3, and its truth: the same array unless a step changes it.

    pixels, and truth where that is another picture: S x S x 3, uint8 or float64 of 0..255 (an
    eight-bit recipe rounds them first). drawn: of `draw`.
    Raises ValueError for faces of another size than the recipe's, and for a step `learned`: pairs
    are made in batches (`apply.degrade_batch`).
    """
    if pixels.shape != (recipe.size, recipe.size, 3):
        height, width = pixels.shape[:2]
        raise ValueError(
            f"the recipe is for faces of {recipe.size} x {recipe.size} px, got {height} x {width}"
        )
    work = whole(pixels) if recipe.eight_bit else pixels.astype(np.float64)
    face = _Face(work, pixels if truth is None else truth, recipe.size)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a job has as many processes as cores: threads would only get in the way
    try:
        for index, (step, parameters) in enumerate(zip(recipe.steps, drawn["steps"])):
            if parameters is not None:
                seed = (drawn["noise_seed"], index)
                _FACES.get(step.kind, _alone)(face, step, parameters, seed)
    finally:
        cv2.setNumThreads(threads)
    return whole(face.pixels), face.truth


def _alone(face: _Face, step: Step, drawn: dict, seed: tuple[int, int]) -> None:
    """A step that has no function here, in a batch of one."""

    def tensor(levels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(levels.astype(np.float64)).permute(2, 0, 1)[None] / 255

    def levels(made: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(made[0].permute(1, 2, 0).numpy() * 255)

    truth, side = tensor(face.truth), face.pixels.shape[0]
    state = batched.State(tensor(face.pixels), truth, [side], face.size, {})
    made = batched.of_kind(step.kind)(state, step, [0], [drawn], [seed])
    side = state.sides[0]
    face.put(levels(made[:, :, :side, :side]))
    if state.truth is not truth:
        face.truth = whole(levels(state.truth))


@on_cpu(Gray)
def face_gray(face: _Face, step: Gray, drawn: dict, seed) -> None:
    """Luma in all channels; `both` changes the truth too."""
    if step.both:
        face.truth = whole(_luma(face.truth))
    face.put(_luma(face.pixels))


def _luma(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        plane = pixelwise.to_gray_weighted_average(pixels)
    else:
        plane = LUMA[0] * pixels[..., 0] + LUMA[1] * pixels[..., 1] + LUMA[2] * pixels[..., 2]
    return cv2.merge([plane] * 3)


@on_cpu(Blur)
def face_blur(face: _Face, step: Blur, drawn: dict, seed) -> None:
    """Gaussian, box, median, motion or anisotropic, border reflected as OpenCV does."""
    shape, kernel_px = drawn["shape"], drawn["kernel_px"]
    if face.pixels.shape[0] == 1:
        return  # one pixel and its reflections
    if shape == "median":
        face.put(_median(face.pixels, kernel_px))
    elif shape == "box":
        face.put(blurs.box_blur(face.pixels, kernel_px))
    elif shape == "gaussian":
        face.put(_gaussian(face.pixels, drawn["sigma_px"], kernel_px))
    elif shape == "motion":
        kernel = motion_kernel(kernel_px, drawn["angle_deg"], drawn["direction"])
        face.put(_correlate(face.pixels, kernel))
    else:
        sigmas = drawn["sigma_px"], drawn["sigma_y_px"]
        face.put(
            _correlate(face.pixels, anisotropic_kernel(*sigmas, drawn["angle_rad"], kernel_px))
        )


def _gaussian(pixels: np.ndarray, sigma_px: float, kernel_px: int) -> np.ndarray:
    """In whole numbers: weights of 8 bits for bytes, as OpenCV's for them, else of 16."""
    taps = gaussian_taps(sigma_px, kernel_px)
    if taps.max() == 1:
        return pixels
    if pixels.dtype == np.uint8:
        # OpenCV sums such weights in integers, twice as fast as its GaussianBlur
        taps = _eight_bits(taps)
        return cv2.sepFilter2D(pixels, -1, taps, taps)
    if pixels.min() < 0 or pixels.max() > 255:  # bicubic overshoots
        return cv2.sepFilter2D(pixels, -1, taps, taps)
    # beyond 4.5 sigma no weight has 16 bits
    side = min(kernel_px, 2 * math.ceil(4.5 * sigma_px) + 1)
    fixed = np.rint(pixels * FIXED_POINT).astype(np.uint16)
    return cv2.GaussianBlur(fixed, (side, side), sigma_px) * (1 / FIXED_POINT)


def _eight_bits(taps: np.ndarray) -> np.ndarray:
    """Symmetric weights as multiples of 1/256 that sum to 1: each tap hands its error inwards."""
    half = len(taps) // 2
    ends = np.rint(np.cumsum(taps[:half]) * 256)
    outer = np.diff(ends, prepend=0)
    return np.concatenate([outer, [256 - 2 * outer.sum()], outer[::-1]]) / 256


def _correlate(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return _correlate_bytes(pixels, kernel)
    return cv2.filter2D(pixels, -1, kernel)


def _correlate_bytes(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A kernel of few weights: block by block, or OpenCV would go through a Fourier transform.

    Weights are multiples of 2^-16 that sum to 1: times a byte and added up they fit into float32's
    24 bits, so that the sum is exact in any order.
    """
    weights = np.rint(kernel * 65536)
    weights.flat[weights.argmax()] += 65536 - weights.sum()
    weights = (weights / 65536).astype(np.float32)
    side, reach = pixels.shape[0], len(kernel) // 2
    floats, border = pixels.astype(np.float32), cv2.BORDER_REFLECT_101
    padded = cv2.copyMakeBorder(floats, reach, reach, reach, reach, border)
    total: np.ndarray | None = None
    for top in range(0, len(kernel), BLOCK_PX):
        for left in range(0, len(kernel), BLOCK_PX):
            block = weights[top : top + BLOCK_PX, left : left + BLOCK_PX]
            if block.any():
                height, width = side + block.shape[0] - 1, side + block.shape[1] - 1
                part = padded[top : top + height, left : left + width]
                made = cv2.filter2D(part, -1, block, anchor=(0, 0))[:side, :side]
                total = made if total is None else total + made
    assert total is not None  # the weights sum to 1
    return total


def _median(pixels: np.ndarray, kernel_px: int) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return blurs.median_blur(pixels, kernel_px)
    rounded = np.rint(pixels)
    if np.array_equal(rounded, pixels) and rounded.min() >= 0 and rounded.max() <= 255:
        return blurs.median_blur(rounded.astype(np.uint8), kernel_px).astype(np.float64)
    return ndimage.median_filter(pixels, (kernel_px, kernel_px, 1), mode="nearest")


@on_cpu(Down)
def face_down(face: _Face, step: Down, drawn: dict, seed) -> None:
    """To the drawn side."""
    face.put(resized(face.pixels, drawn["side_px"], drawn["filter"], drawn["antialias"]))


@on_cpu(Up)
def face_up(face: _Face, step: Up, drawn: dict, seed) -> None:
    """To the recipe's side."""
    face.put(resized(face.pixels, face.size, step.filter, step.antialias))


_OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}


def resized(pixels: np.ndarray, side: int, filter: str, antialias: bool) -> np.ndarray:
    """S x S x 3 -> side x side x 3, not clipped; filters of `resample_matrix`."""
    own = pixels.shape[0]
    if side == own:
        return pixels
    if filter == "nearest":
        return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
    if pixels.dtype == np.uint8 and filter in ("bilinear", "bicubic") and not antialias:
        # in fixed point; the usual bilinear filter of bytes drops bits and darkens by 0.3 levels
        how = cv2.INTER_LINEAR_EXACT if filter == "bilinear" else cv2.INTER_CUBIC
        return cv2.resize(pixels, (side, side), interpolation=how)
    # OpenCV has neither anti-aliased filters nor the mean of exact overlaps when it enlarges
    if antialias or filter not in _OPENCV or (filter == "area" and side > own):
        return _resampled(pixels.astype(np.float64), side, filter, antialias)
    return cv2.resize(pixels.astype(np.float64), (side, side), interpolation=_OPENCV[filter])


def _resampled(pixels: np.ndarray, side: int, filter: str, antialias: bool) -> np.ndarray:
    """Rows, then columns, by `resample_matrix`; the other way around when enlarging."""
    own = pixels.shape[0]
    matrix = resample_matrix(own, side, filter, antialias)
    if max(own, side) <= DENSE_PX:
        rows = (matrix @ pixels.reshape(own, -1)).reshape(side, own, 3)
        return np.matmul(matrix, rows)
    sparse = _sparse(own, side, filter, antialias)
    if side > own:
        pixels = (sparse @ _turned(pixels).reshape(own, -1)).reshape(side, own, 3)
        return (sparse @ _turned(pixels).reshape(own, -1)).reshape(side, side, 3)
    rows = (sparse @ pixels.reshape(own, -1)).reshape(side, own, 3)
    return _turned((sparse @ _turned(rows).reshape(own, -1)).reshape(side, side, 3))


def _turned(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(1, 0, 2))


@functools.lru_cache(maxsize=64)
def _sparse(own: int, side: int, filter: str, antialias: bool):
    return csr_matrix(resample_matrix(own, side, filter, antialias))


@on_cpu(Noise)
def face_noise(face: _Face, step: Noise, drawn: dict, seed) -> None:
    """The numbers that the batched operator draws."""
    side = face.pixels.shape[0]
    noisy = batched.noise_field(seed, side, drawn)
    noisy = noisy + face.pixels
    face.put(np.clip(noisy, 0, 255, out=noisy) if step.clip else noisy)


@on_cpu(Jpeg)
def face_jpeg(face: _Face, step: Jpeg, drawn: dict, seed) -> None:
    """libjpeg's, at its usual 4:2:0 through albumentations, which wants blue first."""
    pixels, quality = whole(face.pixels), drawn["quality"]
    if step.subsampling == "4:2:0":
        blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        decoded = pixelwise.image_compression(blue_first, quality, ".jpg")
        decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    else:
        decoded = jpeg_real(pixels, quality, step.subsampling)
    face.put(decoded.astype(face.pixels.dtype))


@on_cpu(ColourShift)
def face_colour_shift(face: _Face, step: ColourShift, drawn: dict, seed) -> None:
    """One number added per channel."""
    face.put(np.clip(face.pixels + np.array(drawn["shift_255"]), 0, 255))


@on_cpu(Jitter)
def face_jitter(face: _Face, step: Jitter, drawn: dict, seed) -> None:
    """albumentations' operations of torchvision's definition, in their drawn order."""
    face.put(_jittered(face.pixels, drawn))
    if step.both:
        face.truth = whole(_jittered(face.truth, drawn))


def _jittered(pixels: np.ndarray, drawn: dict) -> np.ndarray:
    # float32 of 0..1: on bytes its hue has 180 steps only
    image = pixels.astype(np.float32) / np.float32(255)
    for name in drawn["order"]:
        amount = drawn[name]
        if name == "contrast":  # albumentations' takes 16 times as long
            mean = pixelwise.to_gray_weighted_average(image).mean(dtype=np.float64)
            image = image * np.float32(amount) + np.float32(mean * (1 - amount))
        else:
            image = getattr(pixelwise, f"adjust_{name}_torchvision")(image, amount)
        image = np.clip(image, 0, 1)
    return image.astype(np.float64) * 255
