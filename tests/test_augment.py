"""Adaptive augmentation: matrices and warps with known answers, derivatives, control of p."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from frcore.nets import augment
from frcore.nets.losses import r1_penalty
from frcore.nets.stylegan2 import Discriminator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=2, side=16, dtype=torch.float32):
    return torch.rand(n, 3, side, side, generator=generator(), dtype=dtype) * 2 - 1


def only(n=1, **values):
    """Parameters of `n` images that change nothing but these."""
    v = augment._parameters(n, 0.0)
    for name, value in values.items():
        value = torch.as_tensor(value, dtype=torch.float32)
        v[name] = (value[:, None] if value.ndim else value).expand_as(v[name]).clone()
    return v


def warped(images, **values):
    v = only(len(images), **values)
    return augment.apply(images, augment._geometry(v, images.shape[-1]), augment._colour(v))


def coloured(rgb, **values):
    """A colour (three numbers) after one or more colour operations."""
    image = torch.tensor(rgb)[None, :, None, None].expand(1, 3, 4, 4)
    return warped(image, **values)[0, :, 0, 0]


def test_p_zero_returns_the_images_themselves():
    images = noise()
    assert augment.augment(images, 0.0) is images
    assert torch.equal(augment.apply(images, *augment.draw(2, 0.0, 16)), images)


@pytest.mark.parametrize("side", [8, 15])
def test_flip_and_quarter_turns_are_exact(side):
    images = noise(side=side)
    assert torch.equal(warped(images, flip=1), images.flip(3))
    for quarters in range(4):
        turned = torch.rot90(images, quarters, (2, 3))
        assert torch.equal(warped(images, quarters=quarters), turned)
    both = torch.rot90(images.flip(3), 1, (2, 3))  # the flip comes first
    assert torch.equal(warped(images, flip=1, quarters=1), both)


@pytest.mark.parametrize("x, y", [(3, 0), (0, -5), (-1, 2), (-20, 27)])
def test_whole_shift_is_a_reflected_shift(x, y):
    images = noise(side=12)
    far = np.pad(images.numpy(), [(0, 0), (0, 0), (30, 30), (30, 30)], mode="reflect")
    expected = torch.from_numpy(far[:, :, 30 - y : 42 - y, 30 - x : 42 - x].copy())
    # 0.03 of the side is less than half a pixel and is rounded away
    assert torch.equal(warped(images, shift=(x / 12 + 0.03, y / 12)), expected)
    assert torch.equal(warped(images, drift=(x / 12, y / 12)), expected)


def test_images_on_the_grid_stay_exact_beside_resampled_ones():
    images = noise(4)
    v = only(4)
    v["flip"][1], v["turn_before"][2] = 1, 0.3
    out = augment.apply(images, augment._geometry(v, 16), augment._colour(v))
    expected = images[1].flip(2), warped(images[2:3], turn_before=0.3)[0]
    assert torch.equal(out[[0, 3]], images[[0, 3]]) and torch.equal(out[1], expected[0])
    assert torch.allclose(out[2], expected[1], atol=1e-5) and not torch.allclose(out[2], images[2])


def test_filter_without_a_warp_gives_the_image_back():
    images = noise(side=9)
    same = augment._resample(images, torch.eye(3).expand(2, 3, 3))
    assert torch.allclose(same, images, atol=1e-5)


def reference(image, geometry, side):
    """The warp in numpy and scipy: the same filter on a widely padded image, step by step."""
    taps, margin = np.array(augment.SYM6), 5 * side
    fine = np.pad(image, margin, mode="reflect")
    for axis in (0, 1):
        gaps = np.insert(fine, np.arange(1, fine.shape[axis] + 1), 0, axis)
        filtered = np.apply_along_axis(np.convolve, axis, gaps, taps * math.sqrt(2))
        fine = filtered.take(range(gaps.shape[axis]), axis)
    at = (np.arange(2 * side + 10) - augment.CENTRE) / 2  # in pixels of the output
    x, y = np.meshgrid(at, at)
    centre = (side - 1) / 2
    ones = np.ones_like(x)
    u, v, _ = np.einsum("ij,jab->iab", geometry, [x - centre, y - centre, ones * side / 2])
    where = [2 * (c + centre + margin) + augment.CENTRE for c in (v, u)]
    out = map_coordinates(fine, where, order=1)
    for axis in (0, 1):
        filtered = np.apply_along_axis(np.correlate, axis, out, taps / math.sqrt(2), "valid")
        out = filtered.take(range(0, 2 * side, 2), axis)
    return out


def test_warp_agrees_with_scipy():
    images = noise(6, 12, torch.float64)
    geometry, _ = augment.draw(6, 1.0, 12, generator(1))
    same = torch.eye(4).expand(6, 4, 4)
    out = augment.apply(images, geometry, same)
    for i in range(6):
        expected = reference(images[i, 1].numpy(), geometry[i].double().numpy(), 12)
        assert np.allclose(out[i, 1], expected, atol=1e-9)


def picture(x, y):
    """A smooth function of the plane, in units of half the side; nothing of it at the border."""
    return torch.exp(-20 * ((x - 0.15) ** 2 + 2 * (y + 0.1) ** 2)) * (1 + 0.5 * x)


@pytest.mark.parametrize(
    "values, back",
    [
        ({"flip": 1}, lambda x, y: (-x, y)),
        ({"quarters": 2}, lambda x, y: (-x, -y)),
        ({"zoom": -0.4}, lambda x, y: (x * 2**0.4, y * 2**0.4)),
        ({"stretch": 0.3}, lambda x, y: (x / 2**0.3, y * 2**0.3)),
        ({"drift": (0.11, -0.07)}, lambda x, y: (x - 0.22, y + 0.14)),
        (
            {"turn_before": 0.7},  # counter-clockwise, with y downwards
            lambda x, y: (
                x * math.cos(0.7) - y * math.sin(0.7),
                x * math.sin(0.7) + y * math.cos(0.7),
            ),
        ),
        # a turn before the stretch and one after it differ
        (
            {"turn_before": math.pi / 2, "stretch": 0.3},
            lambda x, y: (-y * 2**0.3, x / 2**0.3),
        ),
        (
            {"stretch": 0.3, "turn_after": math.pi / 2},
            lambda x, y: (-y / 2**0.3, x * 2**0.3),
        ),
        (
            {"zoom": 0.2, "turn_after": math.pi / 2, "drift": (0.1, 0)},  # in this order
            lambda x, y: (-y / 2**0.2, (x - 0.2) / 2**0.2),
        ),
    ],
)
def test_resampling_moves_a_smooth_picture_where_it_should(values, back):
    side = 64
    at = (torch.arange(side) * 2 - (side - 1)) / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    images = picture(x, y).expand(1, 3, side, side)
    out = augment._resample(images, augment._geometry(only(**values), side))
    x, y = back(x, y)
    inside = (x.abs() < 1) & (y.abs() < 1)  # beyond are reflections
    error = (out[0, 0] - picture(x, y))[inside].abs().max()
    assert error < 4e-3  # 0.4 pixels off would be 0.04


def test_brightness_contrast_and_their_order():
    rgb = torch.tensor([0.5, -0.2, 0.1])
    assert torch.allclose(coloured(rgb.tolist(), brightness=0.25), rgb + 0.25)
    assert torch.allclose(coloured(rgb.tolist(), contrast=1.5), rgb * 2**1.5)
    both = coloured(rgb.tolist(), brightness=0.25, contrast=1)
    assert torch.allclose(both, (rgb + 0.25) * 2)


def test_luma_flip_negates_luma_alone_and_twice_is_nothing():
    rgb = torch.tensor([0.5, -0.2, 0.3])
    flipped = coloured(rgb.tolist(), luma_flip=1)
    assert torch.allclose(flipped, rgb - 2 * rgb.mean())
    matrix = augment._colour(only(luma_flip=1))[0]
    assert torch.allclose(matrix @ matrix, torch.eye(4), atol=1e-6)


def test_hue_rotates_about_luma():
    third = 2 * math.pi / 3
    assert torch.allclose(
        coloured([0.5, -0.2, 0.1], hue=third), torch.tensor([0.1, 0.5, -0.2]), atol=1e-6
    )
    for angle in (-2.0, 0.4, 3.0):
        rgb = coloured([0.5, -0.2, 0.1], hue=angle)
        assert rgb.mean() == pytest.approx(0.4 / 3, abs=1e-6)
        assert rgb.norm() == pytest.approx(math.sqrt(0.30), abs=1e-6)


def test_saturation():
    rgb = torch.tensor([0.5, -0.2, 0.3])
    assert torch.allclose(coloured(rgb.tolist(), saturation=-math.inf), torch.full((3,), 0.2))
    assert torch.allclose(coloured(rgb.tolist(), saturation=1), 0.2 + 2 * (rgb - 0.2))


@pytest.mark.parametrize("p", [0.1, 0.6, 1.0])
def test_frequencies_and_distributions_are_the_papers(p):
    n = 20_000
    v = augment._parameters(n, p, generator())
    happened = {k: (t.abs().sum(0) if t.ndim == 2 else t.abs()) > 0 for k, t in v.items()}
    happened["turn"] = happened.pop("turn_before") | happened.pop("turn_after")
    neutral = {"flip": 1 / 2, "quarters": 1 / 4, "luma_flip": 1 / 2}  # draws that change nothing
    for name, mask in happened.items():
        expected = p * (1 - neutral.get(name, 0))
        error = 4 * math.sqrt(expected * (1 - expected) / n) + 1e-12
        assert mask.float().mean().item() == pytest.approx(expected, abs=error), name
    both = (happened["zoom"] & happened["brightness"]).float().mean()  # independent of each other
    assert both.item() == pytest.approx(p * p, abs=0.015)

    stds = {"zoom": 0.2, "stretch": 0.2, "drift": 0.125, "brightness": 0.2}
    stds |= {"contrast": 0.5, "saturation": 1.0}
    uniform = {"shift": 0.125, "turn_before": math.pi, "turn_after": math.pi, "hue": math.pi}
    for name, std in (stds | {k: limit / math.sqrt(3) for k, limit in uniform.items()}).items():
        values = v[name][v[name] != 0]
        assert values.std().item() == pytest.approx(std, rel=0.08), name
        assert abs(values.mean().item()) < 4.5 * std / math.sqrt(len(values)), name
    for name, limit in uniform.items():
        assert 0.98 * limit < v[name].abs().max() <= limit


def test_same_generator_same_result_in_the_same_dtype():
    images = noise(8)
    out = augment.augment(images, 0.7, generator(5))
    assert torch.equal(out, augment.augment(images, 0.7, generator(5)))
    assert not torch.equal(out, augment.augment(images, 0.7, generator(6)))
    for dtype, error in ((torch.float64, 1e-3), (torch.float16, 0.02)):
        other = augment.augment(images.to(dtype), 0.7, generator(5))
        assert other.dtype == dtype and other.shape == images.shape
        assert torch.allclose(other.float(), out, atol=error, rtol=error)


@pytest.mark.parametrize("p", [-0.1, 1.01, math.nan])
def test_p_outside_its_range_is_refused(p):
    with pytest.raises(ValueError, match="expected p"):
        augment.augment(noise(), p)


@pytest.mark.parametrize("shape", [(2, 3, 8, 16), (2, 1, 8, 8), (3, 8, 8), (2, 3, 1, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected square images"):
        augment.augment(torch.zeros(shape), 0.5)


# ----- derivatives


def test_first_and_second_derivatives():
    v = only(3)
    v["flip"][0] = 1
    v["turn_before"][1:], v["zoom"][1:] = torch.tensor([0.4, 2.0]), torch.tensor([-0.5, 0.3])
    v["hue"][1:] = 1.0
    geometry, colour = augment._geometry(v, 4), augment._colour(v)
    images = noise(3, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, geometry, colour), images)
    cubed = lambda x: augment.apply(x, geometry, colour) ** 3  # noqa: E731
    assert torch.autograd.gradgradcheck(cubed, images, fast_mode=True)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_r1_through_the_augmentation_reaches_the_weights(deterministic):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Conv2d(8, 1, 3), nn.Flatten())

    def gradients():
        net.zero_grad()
        real = noise(8).requires_grad_()
        r1_penalty(real, net(augment.augment(real, 0.8, generator(2)))).backward()
        # R1 does not see the last bias
        return [p.grad.clone() for p in list(net.parameters())[:-1]]

    first = gradients()
    assert all(g.isfinite().all() and g.abs().max() > 1e-6 for g in first)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients()))


def test_r1_is_that_of_the_composed_function(deterministic):
    """d/dx D(A x) = A^T D'(A x), with A taken from the augmentation of unit images."""
    torch.manual_seed(0)
    side, weight = 5, torch.randn(75, dtype=torch.float64)
    geometry, colour = augment.draw(1, 1.0, side, generator(4))
    units = torch.eye(75, dtype=torch.float64).view(75, 3, side, side)

    def act(x):
        return augment.apply(x, geometry.expand(len(x), 3, 3), colour.expand(len(x), 4, 4))

    start = act(torch.zeros_like(units[:1])).flatten()
    matrix = (act(units).flatten(1) - start).T  # of the linear part
    x = noise(1, side, torch.float64).requires_grad_()
    r1 = r1_penalty(x, (act(x).flatten(1).square() * weight).sum(1))
    gradient = matrix.T @ (2 * weight * (matrix @ x.flatten() + start))
    assert r1.item() == pytest.approx(gradient.square().sum().item(), rel=1e-6)


def test_with_the_discriminator_of_stylegan2():
    torch.manual_seed(0)
    net = Discriminator(16, c_base=128, c_max=16)
    real = noise(4).requires_grad_()
    r1_penalty(real, net(augment.augment(real, 0.5, generator()))).backward()
    assert net.from_rgb.weight.grad.abs().max() > 0


# ----- colour and translation (DiffAugment)


def differentiable_augment(images, brightness, saturation, contrast, down, right):
    """The policy in numpy, one image and pixel at a time; N x 3 x H x W and a value an image."""
    out = np.zeros_like(images)
    for i, image in enumerate(images):
        x = image + brightness[i]
        grey = x.mean(0)
        x = np.stack([(channel - grey) * saturation[i] + grey for channel in x])
        x = (x - x.mean()) * contrast[i] + x.mean()
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                target = row + down[i], column + right[i]
                if 0 <= target[0] < x.shape[1] and 0 <= target[1] < x.shape[2]:
                    out[i, :, target[0], target[1]] = x[:, row, column]
    return out


@pytest.fixture
def fixed_draws(monkeypatch):
    """`fixed_draws(brightness, saturation, contrast, down, right)`: what is drawn next, an image a
    value; colours as positions in their ranges, 0 to 1, and shifts in pixels."""

    def prepare(*colours, down, right, reach):
        colours = iter(colours)
        shifts = iter((down, right))

        def rand(*shape, device=None):
            return torch.tensor(next(colours)).view(shape)

        def randint(low, high, shape, device=None):
            assert (low, high) == (0, 2 * reach + 1)
            return reach - torch.tensor(next(shifts)).view(shape)

        monkeypatch.setattr(torch, "rand", rand)
        monkeypatch.setattr(torch, "randint", randint)

    return prepare


def test_colour_and_translation_agree_with_numpy(fixed_draws):
    images = noise(4, 16)
    draws = [[0.0, 1.0, 0.3, 0.7], [1.0, 0.0, 0.6, 0.2], [0.0, 1.0, 0.1, 0.8]]
    down, right = [2, -2, 0, 1], [-2, 1, 0, 2]  # up to round(16 / 8)
    fixed_draws(*draws, down=down, right=right, reach=2)
    found = augment.colour_and_translation(images)
    ranges = ((-0.5, 0.5), (0, 2), (0.5, 1.5))
    values = [np.array(d) * (high - low) + low for d, (low, high) in zip(draws, ranges)]
    expected = differentiable_augment(images.double().numpy(), *values, down, right)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert (found[0, :, :2] == 0).all() and (found[0, :, :, -2:] == 0).all()  # behind the shift


def test_middle_of_every_range_changes_nothing(fixed_draws):
    images = noise(2, 8)
    fixed_draws(*[[0.5, 0.5]] * 3, down=[0, 0], right=[0, 0], reach=1)
    torch.testing.assert_close(augment.colour_and_translation(images), images)


def test_colour_and_translation_are_drawn_per_image_within_their_ranges():
    torch.manual_seed(0)
    # three constant colours: shifts show as zeros, and colours can be solved for
    n, side = 400, 16
    colour = torch.tensor([0.1, 0.2, 0.6])
    images = colour.view(1, 3, 1, 1).expand(n, 3, side, side)
    found = augment.colour_and_translation(images)
    inside = found[:, :, side // 2, side // 2]
    brightness = inside.mean(1) - colour.mean()
    assert brightness.min() > -0.5 and brightness.max() < 0.5
    assert brightness.min() < -0.45 and brightness.max() > 0.45
    # saturation and contrast multiply here: up to 2 x 1.5
    factor = (inside[:, 2] - inside[:, 0]) / 0.5
    assert factor.min() >= 0 and 2 < factor.max() <= 3
    there = found.abs().sum(1) > 1e-6
    shifts = [
        (
            kept.any(1 - axis).nonzero().min() - (side - 1 - kept.any(1 - axis).nonzero().max())
        ).item()
        for kept in there
        for axis in (0, 1)
    ]
    assert set(shifts) == {-2, -1, 0, 1, 2}
    both = torch.tensor(shifts).view(n, 2)
    assert len({tuple(pair.tolist()) for pair in both}) == 25  # the axes are drawn apart
    assert len(brightness.unique()) == n
    torch.manual_seed(1)
    assert not torch.equal(augment.colour_and_translation(images), found)


def test_contrast_is_taken_about_the_mean_of_the_image(fixed_draws):
    images = noise(1, 8)
    fixed_draws([0.5], [0.5], [1.0], down=[0], right=[0], reach=1)
    found = augment.colour_and_translation(images)
    torch.testing.assert_close(found.mean(), images.mean())
    torch.testing.assert_close(found - found.mean(), 1.5 * (images - images.mean()))


def test_shift_copies_a_window_of_the_reflected_image():
    torch.manual_seed(0)
    images = torch.rand(40, 3, 8, 8)
    found = augment.shift(images, 3)
    framed = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), "reflect")
    places = []
    for image, frame in zip(found.numpy(), framed):
        windows = [(y, x) for y in range(7) for x in range(7)]
        places += [at for at in windows if np.array_equal(cut(frame, *at), image)]
    assert len(places) == 40  # each is one of the 49 windows, exactly
    assert {y for y, _ in places} == {x for _, x in places} == set(range(7))
    assert torch.equal(augment.shift(images, 0), images)
    for reach in (-1, 5):
        with pytest.raises(ValueError, match=f"expected 0 to 4 px, got {reach}"):
            augment.shift(images, reach)


def cut(frame, y, x):
    return frame[:, y : y + 8, x : x + 8]


def test_first_and_second_derivatives_of_colour_and_translation():
    images = noise(2, 8, torch.float64).requires_grad_()

    def act(x):
        torch.manual_seed(3)
        return augment.colour_and_translation(x) ** 2

    assert torch.autograd.gradcheck(act, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(act, images, fast_mode=True)  # R1 needs it


# ----- control of p


def test_p_rises_from_0_to_1_in_the_given_number_of_images():
    control = augment.Controller(target=0.6, images=2**12)
    history = []
    for _ in range(2**12 // 16):
        assert control.p < 1
        control.update(1.0, 16)
        history.append(control.p)
    assert control.p == 1.0
    assert history[:5] == [0, 0, 0, 64 / 2**12, 64 / 2**12]  # every four batches
    for _ in range(8):
        control.update(1.0, 16)
    assert control.p == 1.0


def test_p_falls_and_stays_at_0():
    control = augment.Controller(images=1000)
    control.p = 0.1
    for _ in range(4):
        control.update(-1.0, 10)
    assert control.p == pytest.approx(0.06)
    for _ in range(12):
        control.update(-1.0, 10)
    assert control.p == 0.0


def test_r_t_is_the_mean_over_the_images_of_four_batches():
    control = augment.Controller(target=0.5, images=100)
    for sign, batch in ((1.0, 4), (1.0, 4), (1.0, 4), (-1.0, 3)):  # 0.6 in the mean
        control.update(sign, batch)
    assert control.p == pytest.approx(0.15)
    for sign in (1.0, 1.0, 1.0, -1.0):  # 0.5: on the target
        control.update(sign, 4)
    assert control.p == pytest.approx(0.15)


def test_control_goes_on_bit_for_bit(tmp_path):
    signs = torch.rand(23, generator=generator()) * 2 - 0.6
    whole, control = augment.Controller(0.3, 5000), augment.Controller(0.3, 5000)
    for i, sign in enumerate(signs):
        whole.update(sign, 12)
        control.update(sign, 12)
        torch.save(control.state(), tmp_path / "state.pt")
        control = augment.Controller(0.3, 5000)
        control.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
        assert control.state() == whole.state(), i
    assert 0 < whole.p < 1
