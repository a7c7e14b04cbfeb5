"""Degradation: operators against OpenCV, Pillow, albumentations and libjpeg; properties of sets."""

import colorsys
import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import whole_config
from PIL import Image, ImageEnhance
from torch.nn import functional as F

from frcore import seeds
from frcore.degrade import (
    apply,
    batched,
    colour,
    cpu,
    draw,
    jpeg,
    kernels,
    resample,
    steps,
    test_sets,
)
from frcore.degrade.recipes import Recipe
from frcore.io import images

cv2 = pytest.importorskip("cv2", reason="OpenCV comes with albumentations")

ROOT = Path(__file__).resolve().parents[1]
PRESETS = {
    name: Recipe.model_validate(entry) for name, entry in whole_config()["degradations"].items()
}
# without those that need a trained degradation model (tests/methods/test_dl_st.py)
ALONE = {name: recipe for name, recipe in PRESETS.items() if not recipe.learned}
# the batched operators and the CPU's
BOTH = pytest.mark.parametrize("operators", ["batched", "cpu"])
GRADIENT_ROUNDINGS = ["cubic", "straight_through"]


def faces(n=1, side=64, seed=0):
    """n x 3 x side x side, 8-bit values: soft blobs, a hard-edged shape, fine lines, skin colours.

    Similar to faces in what matters here: smooth areas, edges, chroma and some texture.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    made = []
    for _ in range(n):
        face = np.array([0.55, 0.42, 0.36])[:, None, None] + np.zeros((3, side, side))
        for _ in range(8):
            cx, cy, width = rng.uniform([0.1, 0.1, 0.05], [0.9, 0.9, 0.3])
            blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
            face += rng.uniform(-0.35, 0.35, 3)[:, None, None] * blob
        cx, cy = rng.uniform(0.3, 0.7, 2)
        face[:, ((x - cx) / 0.16) ** 2 + ((y - cy) / 0.08) ** 2 < 1] *= 0.4
        face += 0.06 * np.sin(2 * np.pi * (9 * x + 4 * y)) * (y < 0.3)
        made.append(np.clip(face, 0, 1))
    return torch.from_numpy(np.round(np.stack(made) * 255)).float() / 255


def to_hwc(face):
    return face[0].permute(1, 2, 0).double().numpy()


def psnr(a, b):
    return float(-10 * torch.log10(((a.double() - b.double()) ** 2).mean()))


def draws(recipe, n, seed=0, **options):
    return [draw.draw(recipe, seeds.numpy_generator(seed, str(i)), **options) for i in range(n)]


def recipe_of(*steps, size=64, **more):
    return Recipe.model_validate({"size": size, "steps": list(steps), **more})


# ------------------------------------------------------------------------------- drawing


def test_psfr_draws_follow_the_paper():
    recipe = PRESETS["psfr"]
    n = 10_000
    rng = np.random.default_rng(0)
    drawn = [draw.draw(recipe, rng)["steps"] for _ in range(n)]
    rates = [sum(steps[k] is not None for steps in drawn) / n for k in range(6)]
    assert rates == pytest.approx([0.3, 0.5, 1, 0.2, 0.7, 1], abs=0.02)
    shapes = Counter(steps[1]["shape"] for steps in drawn if steps[1])
    assert len(shapes) == 4
    assert all(abs(count / n - 0.125) < 0.015 for count in shapes.values())
    sides = [steps[2]["side_px"] for steps in drawn]
    assert (min(sides), max(sides)) == (32, 255)
    assert np.mean(sides) == pytest.approx(143.5, abs=2)
    filters = Counter(steps[2]["filter"] for steps in drawn)
    assert set(filters) == {"nearest", "bilinear", "area", "bicubic"}
    qualities = [steps[4]["quality"] for steps in drawn if steps[4]]
    assert (min(qualities), max(qualities)) == (36, 90)
    for taken in drawn:
        if taken[1] and taken[1]["shape"] in ("median", "motion"):
            assert taken[1]["kernel_px"] % 2 == 1
        if taken[3]:
            assert 0 <= taken[3]["std_255"] <= 25.5
    channels = [steps[3]["per_channel"] for steps in drawn if steps[3]]
    assert np.mean(channels) == pytest.approx(0.5, abs=0.04)


def test_small_faces_get_no_jpeg():
    drawn = [p["steps"] for p in draws(PRESETS["psfr_64"], 2000)]
    small = [steps[4] for steps in drawn if steps[2]["side_px"] < 16]
    large = [steps[4] is not None for steps in drawn if steps[2]["side_px"] >= 16]
    assert len(small) > 300
    assert not any(small)
    assert np.mean(large) == pytest.approx(0.7, abs=0.04)


def test_gfpgan_sides():
    """r uniform in [0.8, 8] at 512: side 64..640, mean 164."""
    sides = [p["steps"][1]["side_px"] for p in draws(PRESETS["gfpgan_train"], 4000)]
    assert min(sides) == 64
    assert max(sides) <= 640
    assert max(sides) > 560
    assert np.mean(sides) == pytest.approx(164, abs=6)


def test_sair_noise_is_drawn_as_variance():
    stds = np.array([p["steps"][1]["std_255"] for p in draws(PRESETS["sair_x8_64"], 2000)])
    variance = (stds / 255) ** 2
    assert variance.min() >= 0.001
    assert variance.max() <= 0.003
    assert variance.mean() == pytest.approx(0.002, abs=5e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_draw_survives_json(name):
    for drawn in draws(PRESETS[name], 20):
        assert json.loads(json.dumps(drawn)) == drawn


def test_test_sets_are_not_grey_and_else_the_same():
    recipe = PRESETS["psfr_64"]
    train, test = draws(recipe, 50), draws(recipe, 50, for_test=True)
    assert any(p["steps"][0] for p in train)
    assert not any(p["steps"][0] for p in test)
    assert [p["steps"][1:] for p in train] == [p["steps"][1:] for p in test]
    degraded_only = recipe_of({"kind": "gray"})
    assert draws(degraded_only, 1, for_test=True)[0]["steps"][0] == {"both": False}


# ------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize(
    "sigma, rule, side",
    [
        (0.4, "imgaug", 5),
        (1.9, "imgaug", 7),
        (4, "imgaug", 11),
        (15, "imgaug", 39),
        (7, "three_sigma", 43),
        (9, 41, 41),
    ],
)
def test_kernel_side(sigma, rule, side):
    assert steps.gaussian_kernel_px(sigma, rule) == side


def test_unknown_kernel_rule():
    with pytest.raises(ValueError, match="unknown kernel rule 'big'"):
        steps.gaussian_kernel_px(1, "big")


@pytest.mark.parametrize("sigma", [0.0, 0.025, 0.5, 2, 10])
def test_isotropic_kernel(sigma):
    taps = kernels.gaussian_taps(sigma, 41)
    kernel = np.outer(taps, taps)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(kernel, kernel.T)
    assert np.allclose(kernel, kernel[::-1])
    assert np.allclose(kernel, kernels.anisotropic_kernel(sigma, sigma, 0.7, 41), atol=1e-12)


def test_gfpgan_kernel_facts():
    """Numbers of the specification sheet: truncation at 41 makes sigma 10 slightly less."""
    taps = kernels.gaussian_taps(10, 41)
    assert taps[20] ** 2 == pytest.approx(0.00173, abs=5e-6)
    assert (taps[0] / taps[20]) ** 2 == pytest.approx(0.018, abs=5e-4)
    assert (taps * np.arange(-20, 21) ** 2).sum() == pytest.approx(79, abs=1)
    assert kernels.gaussian_taps(0.1, 41)[20] == 1


def test_anisotropic_kernel_turns():
    wide = kernels.anisotropic_kernel(3, 1, 0, 21)
    x2 = (np.arange(21) - 10) ** 2
    assert (wide * x2).sum() == pytest.approx(9, abs=0.2)
    assert (wide * x2[:, None]).sum() == pytest.approx(1, abs=0.01)
    assert np.allclose(kernels.anisotropic_kernel(3, 1, math.pi / 2, 21), wide.T)
    # positive angle: from x towards y
    grid = np.arange(21) - 10
    assert (kernels.anisotropic_kernel(3, 1, 0.5, 21) * np.outer(grid, grid)).sum() > 1


def test_motion_kernel():
    line = kernels.motion_kernel(5, 0, 1.0)
    assert np.allclose(line[:, 2], np.array([1, 0.75, 0.5, 0.25, 0]) / 2.5)
    assert line.sum() == pytest.approx(line[:, 2].sum())
    assert np.allclose(kernels.motion_kernel(5, 0, -1.0), line[::-1])
    assert np.allclose(kernels.motion_kernel(5, 180, 1.0), line[::-1])
    assert np.count_nonzero(kernels.motion_kernel(5, 90, 0.0).round(9)) == 5
    assert np.allclose(kernels.motion_kernel(5, 90, 0.0)[2], 0.2)
    assert kernels.motion_kernel(9, 33, 0.3).sum() == pytest.approx(1)


# ------------------------------------------------------------------------------- blurs


def blur_with(face, choice, operators, **fixed):
    """One blur step through degrade_batch, float result before the last rounding."""
    recipe = recipe_of({"kind": "blur", "choices": [choice]}, size=face.shape[-1])
    drawn = draw.draw(recipe, np.random.default_rng(0))
    drawn["steps"][0].update(fixed)
    return apply.degrade_batch(face, recipe, [drawn], operators=operators)[0]


@BOTH
@pytest.mark.parametrize("sigma, kernel", [(0.5, 5), (1.9, 7), (3, 41), (10, 41)])
def test_gaussian_is_opencv(sigma, kernel, operators):
    face = faces(side=64)
    ours = blur_with(
        face, {"shape": "gaussian", "sigma_px": [sigma, sigma], "kernel_px": kernel}, operators
    )
    theirs = cv2.GaussianBlur(to_hwc(face), (kernel, kernel), sigma)
    assert np.abs(to_hwc(ours) - theirs).max() < 0.51 / 255


@BOTH
@pytest.mark.parametrize("side", [2, 3, 4, 15])
def test_box_is_opencv(side, operators):
    face = faces()
    ours = blur_with(face, {"shape": "box", "side_px": [side, side]}, operators)
    assert np.abs(to_hwc(ours) - cv2.blur(to_hwc(face), (side, side))).max() < 0.51 / 255


@BOTH
@pytest.mark.parametrize("side", [3, 5, 15])
def test_median_is_opencv(side, operators):
    face = faces() + 0.2 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    face = (face.clamp(0, 1) * 255).round() / 255
    ours = blur_with(face, {"shape": "median", "side_px": [side, side]}, operators)
    theirs = cv2.medianBlur((to_hwc(face) * 255).round().astype(np.uint8), side)
    assert np.array_equal(images.to_uint8(ours)[0], theirs)


@BOTH
@pytest.mark.parametrize("shape", ["motion", "anisotropic"])
def test_plane_kernels_are_correlated_like_opencv(shape, operators):
    face = faces()
    if shape == "motion":
        ours = blur_with(
            face, {"shape": "motion", "side_px": [9, 9]}, operators, angle_deg=30.0, direction=0.8
        )
        kernel = kernels.motion_kernel(9, 30, 0.8)
    else:
        choice = {"shape": "anisotropic", "sigma_px": [1, 1], "kernel_px": 13}
        ours = blur_with(face, choice, operators, sigma_px=3.0, angle_rad=0.5)
        kernel = kernels.anisotropic_kernel(3, 1, 0.5, 13)
    theirs = cv2.filter2D(to_hwc(face), -1, kernel)
    assert np.abs(to_hwc(ours) - theirs).max() < 0.51 / 255


@BOTH
def test_blurs_are_albumentations(operators):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    albumentations = pytest.importorskip("albumentations")
    face = faces()
    pixels = images.to_uint8(face)[0]
    pairs = [
        (albumentations.MedianBlur((3, 3), p=1), {"shape": "median", "side_px": [3, 3]}, 0),
        (albumentations.Blur((5, 5), p=1), {"shape": "box", "side_px": [5, 5]}, 1),
        (
            albumentations.GaussianBlur(blur_limit=(7, 7), sigma_limit=(1.2, 1.2), p=1),
            {"shape": "gaussian", "sigma_px": [1.2, 1.2], "kernel_px": 7},
            1,
        ),
    ]
    for transform, choice, tolerance in pairs:
        theirs = transform(image=pixels)["image"].astype(int)
        ours = images.to_uint8(blur_with(face, choice, operators))[0].astype(int)
        assert np.abs(ours - theirs).max() <= tolerance, choice
        assert np.abs(ours - pixels).max() > 10  # something happened


def test_median_of_even_side():
    with pytest.raises(ValueError, match="odd, got 4"):
        batched.median_valid(faces(), 4)


# ------------------------------------------------------------------------------- resizing

OPENCV = {"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3}


@pytest.mark.parametrize("filter", OPENCV)
@pytest.mark.parametrize("target", [8, 13, 20, 32, 63])
def test_shrinking_is_opencv(filter, target):
    face = faces()
    ours = to_hwc(resample.resize(face.double(), target, filter))
    theirs = cv2.resize(to_hwc(face), (target, target), interpolation=OPENCV[filter])
    assert np.abs(ours - theirs).max() < 1e-4  # OpenCV's weights are float32


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("source", [8, 13, 64])
def test_enlarging_is_opencv(filter, source):
    face = faces(side=source)
    ours = to_hwc(resample.resize(face.double(), 64, filter))
    theirs = cv2.resize(to_hwc(face), (64, 64), interpolation=OPENCV[filter])
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("source, target", [(64, 8), (64, 21), (16, 64), (13, 64)])
def test_antialias_is_pillow(filter, source, target):
    plane = faces(side=source)[0, 0].numpy()
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter]
    theirs = np.asarray(Image.fromarray(plane).resize((target, target), kind))
    ours = resample.resize(torch.from_numpy(plane)[None, None], target, filter, True)[0, 0].numpy()
    assert np.abs(ours - theirs).max() < 1e-5


def test_antialias_is_torch():
    face = faces()
    theirs = F.interpolate(face, size=(20, 11), mode="bicubic", antialias=True)
    assert torch.allclose(resample.resize(face, (20, 11), "bicubic", True), theirs, atol=1e-5)


def test_resize_refuses():
    with pytest.raises(ValueError, match="unknown filter 'lanczos'; known: nearest"):
        resample.resize(faces(), 8, "lanczos")
    with pytest.raises(ValueError, match="sides must be positive, got 64 -> 0"):
        resample.resize(faces(), 0, "area")
    with pytest.raises(ValueError, match="expected N x C x H x W"):
        resample.resize(faces()[0], 8, "area")


@pytest.mark.parametrize("factor", [4, 8, 32])
def test_pulse_bicubic(factor):
    """Acceptance check 18 of the SAIR sheet."""
    side = 16 * factor
    matrix = resample.resample_matrix(side, 16, "pulse_bicubic")
    assert np.allclose(matrix.sum(axis=1), 1)
    assert np.allclose(matrix, matrix[::-1, ::-1])
    constant = torch.full((1, 3, side, side), 0.3)
    assert torch.allclose(resample.resize(constant, 16, "pulse_bicubic"), torch.tensor(0.3))
    ramp = torch.arange(side, dtype=torch.float64).expand(1, 3, side, side) / side
    small = resample.resize(ramp, 16, "pulse_bicubic")
    centres = ((torch.arange(16) + 0.5) * factor - 0.5) / side
    assert torch.allclose(small[0, 0, 0, 2:-2], centres[2:-2].double(), atol=1e-9)
    plane = np.random.default_rng(0).random((side, side), dtype=np.float32)
    theirs = np.asarray(Image.fromarray(plane).resize((16, 16), Image.Resampling.BICUBIC))
    ours = resample.resize(torch.from_numpy(plane)[None, None], 16, "pulse_bicubic")[0, 0].numpy()
    assert np.abs(ours - theirs)[2:-2, 2:-2].max() * 255 < 0.01
    assert np.abs(ours - theirs).max() * 255 > 0.5  # the border differs: reflected, not cut


def test_pulse_bicubic_gradient_and_refusal():
    face = faces().requires_grad_()
    resample.resize(face, 8, "pulse_bicubic").sum().backward()
    assert face.grad.sum() == pytest.approx(3 * 64, rel=1e-5)  # weights of each output sum to 1
    with pytest.raises(ValueError, match="even factor"):
        resample.resize(faces(side=63), 21, "pulse_bicubic")


# ------------------------------------------------------------------------------- JPEG


def jpeg_simulated(faces, quality, subsampling="4:2:0", rounding="straight_through"):
    """N x 3 x H x W in [0, 1] through the batched codec."""
    qualities = [quality] * len(faces) if isinstance(quality, int | float) else quality
    qualities = [float(one) for one in qualities]
    sizes = [tuple(faces.shape[2:])] * len(faces)
    pixels = jpeg.to_bytes(faces)
    return jpeg.jpeg_on_canvas(pixels, qualities, sizes, subsampling, rounding) / 255


def real_jpeg(face, quality, subsampling="4:2:0"):
    pixels = jpeg.jpeg_real(images.to_uint8(face)[0], quality, subsampling)
    return images.to_float(pixels.copy())


@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 75, 90, 100])
def test_tables_are_libjpegs(quality):
    buffer = io.BytesIO()
    Image.fromarray(images.to_uint8(faces())[0]).save(buffer, "JPEG", quality=quality)
    theirs = Image.open(buffer).quantization
    ours = jpeg.jpeg_tables(quality).reshape(2, 64)
    assert ours.tolist() == [list(theirs[0]), list(theirs[1])]


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [10, 36, 50, 75, 90, 95, 100])
def test_simulated_jpeg_is_libjpeg(quality, subsampling):
    for side in (64, 33, 23, 17, 16, 8):
        face = faces(side=side, seed=side)
        simulated = jpeg_simulated(face, quality, subsampling)
        real = real_jpeg(face, quality, subsampling)
        # libjpeg's cosines have 13 bits: a coefficient near a half may round the other way
        assert (simulated - real).abs().mean() * 255 < 0.3, side
        assert abs(psnr(simulated, face) - psnr(real, face)) < 0.25, side
        assert psnr(simulated, real) > 48, side


def test_simulated_jpeg_edges_are_libjpegs():
    """Sides that are no multiples of 16, and chroma too narrow to smooth."""
    for height, width in [(64, 50), (3, 40), (40, 3), (1, 1), (31, 2), (18, 18)]:
        face = faces(seed=3)[:, :, :height, :width]
        simulated = jpeg_simulated(face, 60)
        assert simulated.shape == face.shape
        assert (simulated - real_jpeg(face, 60)).abs().max() * 255 < 6.5, (height, width)
        assert (simulated - real_jpeg(face, 60)).abs().mean() * 255 < 0.3, (height, width)


def test_chroma_is_smoothed_like_libjpeg():
    """Coloured stripes on even luma: only the right chroma enlarging gets near the codec."""
    face = torch.full((1, 3, 32, 32), 0.5)
    face[:, 0, :, 9:20] = 0.8
    face = (face * 255).round() / 255
    simulated, real = jpeg_simulated(face, 100), real_jpeg(face, 100)
    assert (simulated - real).abs().max() * 255 < 2.5
    assert (jpeg_simulated(face, 100, "4:4:4") - real).abs().max() * 255 > 10
    repeated = face[:, :, :, ::2].repeat_interleave(2, dim=3)  # pixels repeated, not smoothed
    assert (repeated - real).abs().max() * 255 > 10


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_simulated_jpeg_against_albumentations(quality):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    albumentations = pytest.importorskip("albumentations")
    face = faces()
    transform = albumentations.ImageCompression(quality_range=(quality, quality), p=1)
    theirs = images.to_float(transform(image=images.to_uint8(face)[0])["image"])
    # OpenCV carries its own build of libjpeg, a little different from Pillow's
    assert abs(psnr(jpeg_simulated(face, quality), face) - psnr(theirs, face)) < 0.3


def test_high_quality_keeps_smooth_images():
    """Acceptance check 19."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    smooth = torch.stack([0.3 + 0.4 * x, 0.4 + 0.3 * y, 0.5 + 0.2 * x * y])[None]
    for rounding in ("hard", "cubic", "straight_through"):
        assert psnr(jpeg_simulated(smooth, 95, rounding=rounding), smooth) > 35


@pytest.mark.parametrize("rounding", GRADIENT_ROUNDINGS)
def test_jpeg_gradient(rounding):
    face = (0.1 + 0.8 * faces()).requires_grad_()
    weights = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (jpeg_simulated(face, 50, rounding=rounding) * weights).sum().backward()
    assert torch.isfinite(face.grad).all()
    assert (face.grad != 0).float().mean() > 0.99


def test_straight_through_gradient_is_that_of_the_unrounded_codec():
    """4:4:4 without rounding is the identity, so its gradient must be (nearly) the weights."""
    face = (0.1 + 0.8 * faces()).requires_grad_()
    weights = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (jpeg_simulated(face, 50, "4:4:4") * weights).sum().backward()
    assert torch.allclose(face.grad, weights, atol=1e-3)


def test_hard_rounding_has_values_but_no_gradient():
    face = (0.1 + 0.8 * faces()).requires_grad_()
    hard = jpeg_simulated(face, 50, rounding="hard")
    assert torch.equal(hard, jpeg_simulated(face, 50, rounding="straight_through"))
    assert not torch.equal(hard, jpeg_simulated(face, 50, rounding="cubic"))
    assert not hard.requires_grad or not torch.autograd.grad(hard.sum(), face)[0].any()


def test_each_image_has_its_own_quality():
    batch = faces(3)
    together = jpeg_simulated(batch, torch.tensor([10, 50, 95]))
    for i, quality in enumerate([10, 50, 95]):
        alone = jpeg_simulated(batch[i : i + 1], quality)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quality": 0}, "whole number in 1..100, got 0"),
        ({"quality": 50.5}, "whole number in 1..100, got 50.5"),
    ],
)
def test_jpeg_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        jpeg_simulated(faces(), **arguments)


# ------------------------------------------------------------------------------- colour


@pytest.mark.parametrize("turns", [-0.1, 0.07, 0.5])
def test_hue(turns):
    face = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    face[:, :, 0, 0] = 0.4  # grey has no hue
    ours = to_hwc(colour.shift_hue(face, turns))
    for y in range(8):
        for x in range(8):
            h, s, v = colorsys.rgb_to_hsv(*to_hwc(face)[y, x])
            assert ours[y, x] == pytest.approx(colorsys.hsv_to_rgb((h + turns) % 1, s, v), abs=1e-5)


@BOTH
@pytest.mark.parametrize("amount", [0.0, 0.5, 1.5])
@pytest.mark.parametrize(
    "name, enhancer",
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_jitter_is_pillow(name, enhancer, amount, operators):
    face = faces()
    recipe = recipe_of({"kind": "jitter", name: [amount, amount]})
    ours = apply.degrade_batch(face, recipe, draws(recipe, 1), operators=operators)[0]
    theirs = enhancer(Image.fromarray(images.to_uint8(face)[0])).enhance(amount)
    difference = images.to_uint8(ours)[0].astype(int) - np.asarray(theirs).astype(int)
    assert np.abs(difference).max() <= 2


@BOTH
def test_jitter_order_matters_and_is_obeyed(operators):
    recipe = recipe_of({"kind": "jitter", "brightness": [1.5, 1.5], "contrast": [0.2, 0.2]})
    drawn = draws(recipe, 1)[0]
    results = []
    for order in (["brightness", "contrast"], ["contrast", "brightness"]):
        drawn["steps"][0]["order"] = order
        results.append(apply.degrade_batch(faces(), recipe, [drawn], operators=operators)[0])
    assert (results[0] - results[1]).abs().max() > 0.02


@BOTH
def test_colour_shift(operators):
    recipe = recipe_of({"kind": "colour_shift", "shift_255": [-20, 20]})
    drawn = draws(recipe, 1)[0]
    drawn["steps"][0]["shift_255"] = [10.0, -20.0, 0.0]
    face = faces()
    shifted, truth = apply.degrade_batch(face, recipe, [drawn], operators=operators)
    expected = (face * 255 + torch.tensor([10.0, -20, 0])[:, None, None]).clamp(0, 255)
    assert torch.allclose(shifted * 255, expected, atol=1e-3)
    assert torch.equal(truth, face)


@BOTH
def test_gray(operators):
    face = faces(2)
    both = recipe_of({"kind": "gray", "both": True})
    params = draws(both, 2)
    params[1]["steps"][0] = None
    degraded, truth = apply.degrade_batch(face, both, params, operators=operators)
    theirs = np.asarray(Image.fromarray(images.to_uint8(face)[0]).convert("L")).astype(int)
    for image in (degraded, truth):
        assert torch.equal(image[0, 0], image[0, 1])
        assert np.abs(images.to_uint8(image)[0, :, :, 2].astype(int) - theirs).max() <= 1
        assert torch.allclose(image[1], face[1], atol=1e-6)
    only = recipe_of({"kind": "gray"})
    degraded, truth = apply.degrade_batch(face, only, draws(only, 2), operators=operators)
    assert torch.equal(truth, face)
    assert torch.equal(degraded[:, 0], degraded[:, 1])


# ------------------------------------------------------------------------------- noise

QUIET_UP = {"kind": "up", "filter": "nearest"}


@BOTH
def test_noise(operators):
    recipe = recipe_of({"kind": "noise", "std_255": [20, 20]})
    flat = torch.full((1, 3, 64, 64), 0.5)
    noise = (
        apply.degrade_batch(flat, recipe, draws(recipe, 1), operators=operators)[0] - 0.5
    ) * 255
    assert float(noise.std()) == pytest.approx(20, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.6)
    red_green = np.corrcoef(noise[0, 0].flatten(), noise[0, 1].flatten())[0, 1]
    assert abs(red_green) < 0.06
    same = recipe_of({"kind": "noise", "std_255": [20, 20], "per_channel": 0.0})
    noise = apply.degrade_batch(flat, same, draws(same, 1), operators=operators)[0]
    assert torch.equal(noise[:, 0], noise[:, 1])


@BOTH
def test_noise_is_added_to_the_small_face(operators):
    recipe = recipe_of(
        {"kind": "down", "factor": [8, 8], "filters": ["area"]},
        {"kind": "noise", "std_255": [20, 20]},
        QUIET_UP,
    )
    noisy = apply.degrade_batch(
        torch.full((1, 3, 64, 64), 0.5), recipe, draws(recipe, 1), operators=operators
    )[0]
    blocks = noisy.reshape(3, 8, 8, 8, 8)
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))
    assert len(blocks[:, :, 0, :, 0].unique()) > 50


# ------------------------------------------------------------------------------- the chain


@BOTH
@pytest.mark.parametrize("name", [name for name, recipe in ALONE.items() if recipe.size == 64])
def test_presets_run(name, operators):
    face = faces(4)
    degraded, truth = apply.degrade_batch(
        face, PRESETS[name], draws(PRESETS[name], 4), None, operators
    )
    assert degraded.shape == truth.shape == face.shape
    assert degraded.dtype == truth.dtype == torch.float32
    images.check_images(degraded)
    steps = degraded * 255
    assert (steps - steps.round()).abs().max() < 1e-3
    assert 12 < psnr(degraded, truth) < 40


@pytest.mark.parametrize("name", ["psfr", "gfpgan_train", "bbin", "x16", "sair_x32"])
def test_full_size_presets_run(name):
    recipe = PRESETS[name]
    face = faces(1, recipe.size)
    degraded, _ = apply.degrade_batch(face, recipe, draws(recipe, 1, seed=1))
    assert degraded.shape == face.shape
    assert 10 < psnr(degraded, face) < 40


@BOTH
def test_all_off_is_identity(operators):
    entry = PRESETS["psfr_64"].model_dump(exclude_none=True)
    for step in entry["steps"]:
        if step["kind"] == "down":
            step["side_px"] = (64, 64)
        elif step["kind"] != "up":
            step["p"] = 0.0
    recipe = Recipe.model_validate(entry)
    face = faces(3)
    degraded, truth = apply.degrade_batch(face, recipe, draws(recipe, 3), None, operators)
    assert torch.equal(images_bytes(degraded), images_bytes(face))
    assert torch.equal(truth, face)


def images_bytes(batch):
    return torch.from_numpy(images.to_uint8(batch))


@pytest.mark.parametrize("name", ["psfr_64", "gfpgan_64", "gfpgan_train_64", "sair_x8_64"])
def test_an_image_does_not_depend_on_its_batch(name):
    recipe = PRESETS[name]
    batch, params = faces(12), draws(recipe, 12, seed=5)
    together, truth = apply.degrade_batch(batch, recipe, params, operators="batched")
    for i in range(12):
        one = batch[i : i + 1], recipe, params[i : i + 1]
        alone, own_truth = apply.degrade_batch(*one, operators="batched")
        # float rounding may tip a value over to the next of 255 steps, rarely
        assert (alone[0] - together[i]).abs().mean() * 255 < 0.02
        assert torch.allclose(own_truth[0], truth[i], atol=1e-6)


@pytest.mark.parametrize("name", [name for name, recipe in ALONE.items() if recipe.size == 64])
def test_batched_and_cpu_operators_agree(name):
    """A model trained on a GPU and a test set: this is what it is trained and judged on."""
    recipe = PRESETS[name]
    batch, params = faces(16), draws(recipe, 16, seed=2)
    many, _ = apply.degrade_batch(batch, recipe, params, operators="batched")
    alone, truth = apply.degrade_batch(batch, recipe, params, operators="cpu")
    assert (many - alone).abs().mean() * 255 < 0.3
    for i in range(16):
        assert abs(psnr(many[i], truth[i]) - psnr(alone[i], truth[i])) < 0.3, i


@pytest.mark.parametrize("name", ["psfr", "gfpgan_train", "bicn", "sair_x32"])
def test_batched_and_cpu_operators_agree_at_full_size(name):
    recipe = PRESETS[name]
    face, params = faces(1, recipe.size), draws(recipe, 4, seed=3)
    for drawn in params:
        many, _ = apply.degrade_batch(face, recipe, [drawn], operators="batched")
        alone, _ = apply.degrade_batch(face, recipe, [drawn], operators="cpu")
        assert (many - alone).abs().mean() * 255 < 0.3, drawn


THREADS = """
import hashlib, sys
sys.path.insert(0, "tests")
import cv2, torch
from test_degrade import PRESETS, draws, faces
from frcore.degrade.apply import degrade_batch
torch.set_num_threads(int(sys.argv[1]))
cv2.setNumThreads(int(sys.argv[1]))
digest = hashlib.sha256()
for name in ("psfr", "gfpgan_train", "bicn", "sair_x32", "psfr_64", "bbin_64", "sair_x4_64"):
    recipe = PRESETS[name]
    faces_ = faces(2, recipe.size)
    made, _ = degrade_batch(faces_, recipe, draws(recipe, 2, seed=4))
    digest.update(made.numpy().tobytes())
assert cv2.getNumThreads() == int(sys.argv[1])
print(digest.hexdigest())
"""


def test_the_same_bytes_with_any_number_of_threads():
    found = set()
    for threads in "1", "2", "3":
        names = ("OMP", "OPENBLAS", "MKL")
        env = os.environ | {f"{name}_NUM_THREADS": threads for name in names}
        words = [sys.executable, "-c", THREADS, threads]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_bytes_and_floats_of_a_face_are_the_same_to_the_cpu():
    recipe = PRESETS["gfpgan_train_64"]
    batch, params = faces(6), draws(recipe, 6, seed=8)
    made, _ = apply.degrade_batch(batch, recipe, params)
    for i, pixels in enumerate(images.to_uint8(batch)):
        alone, truth = cpu.degrade_face(pixels, recipe, params[i])
        assert truth is pixels
        assert np.array_equal(alone, images.to_uint8(made)[i])
        floats, _ = cpu.degrade_face(pixels.astype(np.float64), recipe, params[i])
        assert np.array_equal(alone, floats)


def test_gaussian_weights_of_eight_bits():
    for sigma, side in ((0.375, 5), (1.9, 7), (15, 39)):
        taps = kernels.gaussian_taps(sigma, side)
        eight = cpu._eight_bits(taps)
        assert eight.sum() == 1
        assert np.array_equal(eight * 256, np.rint(eight * 256))
        assert np.array_equal(eight, eight[::-1])
        assert np.abs(eight - taps).max() < 1.5 / 256


def test_gradient_passes_the_chain():
    recipe = PRESETS["gfpgan_64"]
    face = (0.2 + 0.6 * faces(4)).requires_grad_()
    degraded, _ = apply.degrade_batch(face, recipe, draws(recipe, 4))
    degraded.sum().backward()
    assert torch.isfinite(face.grad).all()
    assert face.grad.sum() == pytest.approx(face.numel(), rel=0.02)  # every step keeps the mean


def gfpgan_with(sigma=0.0, factor=1.0, std=0.0, quality=100, size=64):
    return recipe_of(
        {
            "kind": "blur",
            "choices": [{"shape": "gaussian", "sigma_px": [sigma, sigma], "kernel_px": 7}],
        },
        {"kind": "down", "factor": [factor, factor], "filters": ["bilinear"]},
        {"kind": "noise", "std_255": [std, std]},
        {"kind": "jpeg", "quality": [quality, quality]},
        {"kind": "up", "filter": "bilinear"},
        size=size,
    )


@BOTH
def test_gfpgan_at_its_mildest(operators):
    recipe = gfpgan_with()
    assert (
        psnr(apply.degrade_batch(faces(), recipe, draws(recipe, 1), None, operators)[0], faces())
        > 35
    )


@BOTH
def test_constant_stays_constant(operators):
    recipe = gfpgan_with(1.25, 3.3, 0, 60)
    flat = torch.tensor([120, 80, 200.0])[None, :, None, None].expand(1, 3, 64, 64) / 255
    degraded = apply.degrade_batch(
        flat.contiguous(), recipe, draws(recipe, 1), operators=operators
    )[0]
    spread = degraded.amax(dim=(2, 3)) - degraded.amin(dim=(2, 3))
    assert spread.max() * 255 < 1.001
    # what remains is the JPEG's rounding of the mean: half a DC step of 60 is 13 * 0.5 / 8
    assert (degraded - flat).abs().max() * 255 < 3


@BOTH
@pytest.mark.parametrize(
    "name, values", [("sigma", [0, 0.6, 1.25]), ("factor", [1, 2, 4]), ("std", [0, 7, 15])]
)
def test_quality_falls_with_strength(name, values, operators):
    batch = faces(6)
    scores = []
    for value in values:
        recipe = gfpgan_with(**{name: value})
        scores.append(
            psnr(
                apply.degrade_batch(batch, recipe, draws(recipe, 6), operators=operators)[0], batch
            )
        )
    assert scores[0] > scores[1] + 0.5 > scores[2] + 1


@BOTH
def test_mixed_sides_in_any_order_of_steps(operators):
    """Steps between down and up see faces of different sides on one canvas."""
    recipe = recipe_of(
        {"kind": "down", "p": 0.7, "side_px": [9, 40], "filters": ["area"]},
        {
            "kind": "blur",
            "choices": [
                {"shape": "gaussian", "sigma_px": [1, 2], "kernel_px": 9},
                {"shape": "box", "side_px": [2, 5]},
                {"shape": "median", "side_px": [3, 5]},
                {"shape": "motion", "side_px": [5, 9]},
            ],
        },
        {"kind": "jitter", "contrast": [0.5, 0.5]},
        {"kind": "jpeg", "quality": [50, 90]},
        {"kind": "up", "filter": "bicubic"},
    )
    batch, params = faces(24), draws(recipe, 24)
    assert {p["steps"][0] is None for p in params} == {True, False}
    together, _ = apply.degrade_batch(batch, recipe, params, operators=operators)
    for i in range(24):
        alone, _ = apply.degrade_batch(
            batch[i : i + 1], recipe, params[i : i + 1], operators=operators
        )
        assert (alone[0] - together[i]).abs().mean() * 255 < 0.1, params[i]


@BOTH
@pytest.mark.parametrize("shift, float_result, eight_bit_result", [(0.4, 1, 0), (0.5, 1, 2)])
def test_eight_bit_pipelines_round_after_every_step(
    shift, float_result, eight_bit_result, operators
):
    """Two shifts of 0.4 of 255 are lost one by one and count together; halves go up."""
    step = {"kind": "colour_shift", "shift_255": [shift, shift]}
    flat = torch.full((1, 3, 64, 64), 100 / 255)
    for eight_bit, expected in ((False, float_result), (True, eight_bit_result)):
        recipe = recipe_of(step, step, eight_bit=eight_bit)
        shifted = apply.degrade_batch(flat, recipe, draws(recipe, 1), operators=operators)[0]
        assert (images_bytes(shifted) == 100 + expected).all()


@BOTH
def test_empty_recipe_is_the_identity(operators):
    recipe = recipe_of()
    assert torch.allclose(
        apply.degrade_batch(faces(), recipe, draws(recipe, 1), operators=operators)[0], faces()
    )


def test_degrade_batch_refuses():
    recipe = PRESETS["psfr_64"]
    params = draws(recipe, 1)
    with pytest.raises(ValueError, match="faces of 64 x 64 px, got 32 x 32"):
        apply.degrade_batch(faces(side=32), recipe, params)
    with pytest.raises(ValueError, match="1 parameter sets for 2 images"):
        apply.degrade_batch(faces(2), recipe, params)
    with pytest.raises(ValueError, match="drawn from another recipe"):
        apply.degrade_batch(faces(), PRESETS["x4_64"], params)
    with pytest.raises(ValueError, match="unknown operators 'gpu'"):
        apply.degrade_batch(faces(), recipe, params, operators="gpu")
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        apply.degrade_batch(faces() * 2 - 1, recipe, params)


# ------------------------------------------------------------------------------- test sets


@pytest.fixture
def folder(tmp_path):
    """Five face files as (id, path)."""
    pairs = []
    for i, pixels in enumerate(images.to_uint8(faces(5))):
        images.write_image(tmp_path / f"source{i}.png", pixels)
        pairs.append((f"face_{i}", tmp_path / f"source{i}.png"))
    return pairs


def written(folder_path):
    return {path.name: path.read_bytes() for path in sorted(folder_path.iterdir())}


@pytest.mark.parametrize("preset", ["psfr_64", "gfpgan_train_64"])
def test_regenerated_sets_are_the_same_bytes(tmp_path, folder, preset):
    def write(name, pairs, seed=1, dataset="toy"):
        out, table = tmp_path / name, tmp_path / f"{name}.csv"
        test_sets.degrade_folder(pairs, out, table, PRESETS[preset], seed, dataset, preset)
        return written(out), table.read_text()

    first, table = write("a", folder)
    assert list(first) == [f"face_{i}.png" for i in range(5)]
    assert write("b", folder) == (first, table)
    assert write("a", folder) == (first, table)  # over an existing set
    backwards, other_table = write("c", folder[::-1])
    assert backwards == first
    assert sorted(other_table.splitlines()) == sorted(table.splitlines())
    assert write("d", folder[3:4])[0] == {"face_3.png": first["face_3.png"]}
    assert write("e", folder, seed=2)[0]["face_0.png"] != first["face_0.png"]
    assert write("f", folder, dataset="other")[0]["face_0.png"] != first["face_0.png"]


def test_table_holds_what_was_done(tmp_path, folder):
    recipe = PRESETS["psfr_64"]
    test_sets.degrade_folder(
        folder, tmp_path / "set", tmp_path / "t.csv", recipe, 0, "toy", "psfr_64"
    )
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [name for name, _ in folder]
    for row, (_, path) in zip(rows, folder):
        drawn = json.loads(row["parameters"])
        down, noise, jpeg = drawn["steps"][2:5]
        assert int(row["side_px"]) == down["side_px"]
        assert row["jpeg_quality"] == ("" if jpeg is None else str(jpeg["quality"]))
        assert (row["noise_std_255"] == "") == (noise is None)
        # the recorded parameters alone make the image again
        face = images.to_float(images.read_image(path))
        again, _ = apply.degrade_batch(face, recipe, [drawn], operators="cpu")
        stored = images.read_image(tmp_path / "set" / f"{row['id']}.png")
        assert np.array_equal(images.to_uint8(again)[0], stored)


def test_a_failed_set_leaves_the_old_one(tmp_path, folder):
    out, table = tmp_path / "set", tmp_path / "set.csv"
    recipe = PRESETS["x4_64"]
    test_sets.degrade_folder(folder, out, table, recipe, 0, "toy", "x4_64")
    before = written(out), table.read_text()
    images.write_image(tmp_path / "odd.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"odd\.png: the recipe is for faces of 64 x 64"):
        test_sets.degrade_folder(
            [*folder, ("odd", tmp_path / "odd.png")], out, table, recipe, 0, "toy", "x4_64"
        )
    assert (written(out), table.read_text()) == before


@pytest.mark.parametrize(
    "names, message",
    [(["a", "a"], r"ids repeat: \['a'\]"), (["a", "../b"], "not plain file names")],
)
def test_bad_ids(tmp_path, folder, names, message):
    pairs = [(name, path) for name, (_, path) in zip(names, folder)]
    with pytest.raises(ValueError, match=message):
        test_sets.degrade_folder(
            pairs, tmp_path / "o", tmp_path / "o.csv", PRESETS["x4_64"], 0, "t", "p"
        )
    assert not (tmp_path / "o").exists()


def test_contact_sheet(folder):
    recipe = PRESETS["psfr_64"]
    sheet = test_sets.contact_sheet(folder[:2], recipe, "psfr_64", columns=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 4 * 132 + 4
    truth = images.read_image(folder[0][1]).repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(sheet[26 : 26 + 128, 4 : 4 + 128], truth)
    first, second = (sheet[26 : 26 + 128, left : left + 128] for left in (136, 268))
    assert not np.array_equal(first, truth)
    assert not np.array_equal(first, second)
    assert (sheet[26 + 128 : 26 + 168] < 100).sum() > 300  # captions
    again = test_sets.contact_sheet(folder[:2], recipe, "psfr_64", columns=3)
    assert np.array_equal(sheet, again)
    with pytest.raises(ValueError, match="at least one face"):
        test_sets.contact_sheet([], recipe, "psfr_64")


# ---- kinds of steps


def test_every_kind_has_the_function_that_its_name_says():
    classes = {c.model_fields["kind"].annotation: c for c in steps.BaseStep.__subclasses__()}
    kinds = {kind.__args__[0] for kind in classes}
    assert len(kinds) == len(classes) > 8
    assert set(batched._APPLY) == kinds
    for kind in kinds:
        assert getattr(batched, f"apply_{kind}") is batched._APPLY[kind]


def test_another_name_is_refused():
    def dim():
        """Never called."""

    with pytest.raises(ValueError, match="dim applies noise: call it apply_noise"):
        batched.applies(steps.Noise)(dim)
    assert batched._APPLY["noise"] is batched.apply_noise


NEW_CLASS = """

class Speckle(BaseStep):
    kind: Literal["speckle"]
    share: Probability

    def draw(self, rng, side, for_test):
        return {"share": uniform(rng, (0, self.share))}
"""

NEW_FUNCTION = """

from frcore.degrade.steps import Speckle


@applies(Speckle)
def apply_speckle(state, step, chosen, drawn, seeds):
    some = _pick(state.images, chosen).clone()
    for face, p, seed in zip(some, drawn, seeds):
        face[:, torch.tensor(generator(seed).random(face.shape[1:]) < p["share"])] = 1
    return _put(state.images, chosen, some)
"""

NEW_USE = """
import json, sys
import torch
from frcore import seeds
from frcore.degrade.apply import degrade_batch
from frcore.degrade.draw import draw
from frcore.degrade.recipes import Recipe
from frcore.workflow.codehash import code_hash

recipe = Recipe.model_validate({"size": 64, "steps": json.loads(sys.argv[1])})
print(json.dumps(code_hash("frcore.degrade.test_sets:degrade_folder", *recipe.code())))
if len(sys.argv) > 2:
    recipe = Recipe.model_validate({"size": 64, "steps": json.loads(sys.argv[2])})
    drawn = [draw(recipe, seeds.numpy_generator(0, i)) for i in range(3)]
    faces = torch.zeros(3, 3, 64, 64)
    made, _ = degrade_batch(faces, recipe, drawn)
    alone, _ = degrade_batch(faces[1:2], recipe, drawn[1:2], operators="cpu")
    assert torch.equal(made[1:2], alone)
    print(json.dumps([[d["steps"][0]["share"], float(m.mean())] for d, m in zip(drawn, made)]))
"""


def test_a_kind_of_step_is_one_class_and_one_function(tmp_path):
    """In a copy of the sources; what other recipes hang on stays as it is."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "frcore", tmp_path / "frcore", ignore=ignored)
    (tmp_path / "use.py").write_text(NEW_USE)
    known = json.dumps([{"kind": "noise", "std_255": [0, 9]}, {"kind": "up", "filter": "area"}])

    def use(*words):
        words = [sys.executable, "use.py", *words]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    (before,) = use(known)
    models, functions = (tmp_path / f"frcore/degrade/{n}.py" for n in ("steps", "batched"))
    models.write_text(models.read_text() + NEW_CLASS)
    functions.write_text(functions.read_text() + NEW_FUNCTION)
    after, results = use(known, json.dumps([{"kind": "speckle", "share": 0.5}]))
    assert after == before
    assert len({share for share, _ in results}) == 3
    for share, mean in results:
        assert mean == pytest.approx(share, abs=0.03)
