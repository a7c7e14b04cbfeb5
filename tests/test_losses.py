"""Losses against known answers."""

import math

import pytest
import torch
from torch.nn import functional as F

from frcore.nets import losses


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator)


def test_logistic_losses_are_binary_cross_entropies(draw):
    real, fake = 3 * draw(7, 1), 3 * draw(5, 1)
    bce = F.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(losses.logistic_d(real, fake), expected)
    torch.testing.assert_close(losses.logistic_g(fake), bce(fake, torch.ones_like(fake)))
    nothing = torch.zeros(4, 1)
    assert losses.logistic_d(nothing, nothing).item() == pytest.approx(2 * math.log(2))


def test_logistic_losses_stay_finite():
    far = torch.tensor([[-1e4], [1e4]])
    assert losses.logistic_d(far, far).item() == pytest.approx(1e4)
    assert losses.logistic_g(far).item() == pytest.approx(5e3)


def test_r1_of_a_linear_function(draw):
    slope = draw(3, 4, 5).requires_grad_(True)
    real = draw(6, 3, 4, 5).requires_grad_(True)
    penalty = losses.r1_penalty(real, (real * slope).sum((1, 2, 3))[:, None])
    torch.testing.assert_close(penalty, slope.square().sum())
    penalty.backward()
    torch.testing.assert_close(slope.grad, 2 * slope.detach())


def test_r1_of_a_quadratic_function(draw):
    factor = draw(3, 4, 4).requires_grad_(True)
    real = draw(5, 3, 4, 4).requires_grad_(True)
    penalty = losses.r1_penalty(real, (factor * real.square() / 2).sum((1, 2, 3))[:, None])
    each = [(factor * image).square().sum() for image in real.detach()]
    torch.testing.assert_close(penalty, sum(each) / 5)
    penalty.backward()
    expected = 2 * factor.detach() * real.detach().square().mean(0)
    torch.testing.assert_close(factor.grad, expected)


def test_perceptual_net_is_asked_for_where_its_weight_counts():
    assert losses.perceptual_of({"perceptual": "net"}, 0.1) == "net"
    assert losses.perceptual_of({"perceptual": "net"}, 0.0) is None
    with pytest.raises(ValueError, match="perceptual_weight"):
        losses.perceptual_of({}, 0.1)


def test_path_lengths_of_one_pixel(draw):
    """A single pixel of one colour: y is one number, the Jacobian one row."""
    jacobian = draw(4, 6)  # rows of W+ x D
    ws = draw(3, 4, 6).requires_grad_(True)
    image = (ws * jacobian).sum((1, 2)).reshape(3, 1, 1, 1)
    torch.manual_seed(1)
    lengths = losses.path_lengths(image, ws)
    torch.manual_seed(1)
    y = torch.randn(3, 1, 1, 1).flatten()
    torch.testing.assert_close(lengths, y.abs() * jacobian.square().sum(1).mean().sqrt())


def test_path_lengths_of_a_linear_map_in_expectation(draw):
    """E || J^T y ||^2 is the squared Frobenius norm, over the pixels, its mean over the rows."""
    n, rows, d = 4000, 3, 5
    jacobian = draw(3 * 4 * 2, rows * d).requires_grad_(True)
    ws = draw(n, rows, d).requires_grad_(True)
    torch.manual_seed(1)
    lengths = losses.path_lengths((ws.flatten(1) @ jacobian.T).reshape(n, 3, 4, 2), ws)
    expected = jacobian.square().sum() / rows / 8
    torch.testing.assert_close(lengths.square().mean(), expected, rtol=0.03, atol=0)
    (gradient,) = torch.autograd.grad(lengths.square().mean(), jacobian)  # of the map's own weights
    towards = 2 * jacobian.detach() / rows / 8
    assert F.cosine_similarity(gradient.flatten(), towards.flatten(), 0) > 0.99


def test_mean_over_processes_of_one_process_changes_nothing():
    value = torch.tensor([1.5, -2.0], requires_grad=True)
    mean = losses.mean_over_processes(value)
    assert torch.equal(mean, value) and not mean.requires_grad
    mean.zero_()  # a copy: the caller's value stays
    assert value.tolist() == [1.5, -2.0]
