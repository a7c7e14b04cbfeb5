"""Latent search: known answers on a small random generator."""

import pytest
import torch

from frcore.methods import stylegan2
from frcore.nets import latent_search as search
from frcore.nets.latent_search import project, ramp, reconstruction


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    settings = stylegan2.Settings(**{**stylegan2.TINY, "w_dim": 8})
    return stylegan2.build(settings).eval().requires_grad_(False)


def latents(prior, n, seed=1):
    z = prior.draw(n, torch.Generator().manual_seed(seed))
    return prior.to_rows(prior.mapping(z)).clone()


def image_of(prior, ws):
    return prior.synthesis(ws, "fixed") / 2 + 0.5


@pytest.mark.parametrize(
    ("t", "value"), [(0, 0), (0.025, 0.5), (0.05, 1), (0.5, 1), (0.75, 1), (0.875, 0.5), (1, 0)]
)
def test_ramp_of_appendix_d(t, value):
    assert ramp(t) == pytest.approx(value, abs=1e-12)


def test_reconstruction_loss_is_an_image_s_own(prior):
    target = torch.rand(3, 3, 16, 16)
    offsets = torch.tensor([0.0, 0.1, 0.3])
    values = reconstruction(target, None, pixel_weight=2)(target + offsets[:, None, None, None])
    # squares in the networks' range, which is twice as wide
    torch.testing.assert_close(values, 2 * (2 * offsets).square())


class Halves(torch.nn.Module):
    def forward(self, images):
        return {"left": images[..., :8], "right": images[..., 8:]}


def test_reconstruction_adds_the_feature_distance():
    target, other = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    both, pixels, features = (
        reconstruction(target, Halves(), *weights)(other)
        for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    )
    torch.testing.assert_close(both, pixels + features)
    assert (features > 0).all()


def test_a_face_of_the_prior_is_found(prior):
    wanted = latents(prior, 2)
    start = prior.to_rows(prior.mapping.w_avg[None]).expand(2, -1, -1)
    loss = reconstruction(image_of(prior, wanted), None)
    before = loss(image_of(prior, start))
    found = project(prior, loss, start, steps=150, learning_rate=0.1)
    assert (found.losses < 0.1 * before).all()
    torch.testing.assert_close(loss(image_of(prior, found.ws)), found.losses)
    torch.testing.assert_close(found.images, image_of(prior, found.ws).clamp(0, 1))
    assert len(found.course) == 151  # the start and every step
    assert found.course[0] == pytest.approx(before.tolist())


def test_a_perfect_start_is_kept(prior):
    ws = latents(prior, 2)
    found = project(prior, reconstruction(image_of(prior, ws), None), ws, steps=5)
    assert torch.equal(found.ws, ws)
    assert found.losses.max() < 1e-9


def test_the_best_step_is_kept_for_each_image(prior):
    wanted = latents(prior, 2)
    start = latents(prior, 2, seed=3)
    loss = reconstruction(image_of(prior, wanted), None)
    found = project(prior, loss, start, steps=8, learning_rate=3.0)  # far too fast: it jumps about
    course = torch.tensor(found.course)
    assert found.losses.tolist() == course.min(0).values.tolist()
    assert course[-1].max() > found.losses.max()


def test_each_image_is_searched_for_on_its_own(prior):
    target, start = image_of(prior, latents(prior, 3)), latents(prior, 3, seed=3)
    together = project(prior, reconstruction(target, None), start, steps=10).ws
    alone = project(prior, reconstruction(target[1:2], None), start[1:2], steps=10).ws
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_space(prior, space):
    target, start = image_of(prior, latents(prior, 1)), latents(prior, 1, seed=3)
    ws = project(prior, reconstruction(target, None), start, steps=10, space=space).ws
    assert torch.equal(ws, ws[:, :1].expand_as(ws)) == (space == "w")
    assert not torch.equal(ws, start)


def test_near_weight_holds_back(prior):
    target, start = image_of(prior, latents(prior, 1)), latents(prior, 1, seed=3)

    def distance(weight):
        loss = reconstruction(target, None)
        found = project(prior, loss, start, steps=30, learning_rate=0.1, near_weight=weight)
        return float((found.ws - start).norm())

    assert distance(10.0) < 0.5 * distance(0.0)


def test_wandering_is_seeded_and_ends(prior):
    target, start = image_of(prior, latents(prior, 1)), latents(prior, 1, seed=3)

    def search_with(seed, wander=0.5):
        generator = torch.Generator().manual_seed(seed)
        loss = reconstruction(target, None)
        return project(prior, loss, start, 12, wander=wander, generator=generator)

    assert search_with(0).course == search_with(0).course
    assert search_with(0).course != search_with(1).course
    assert search_with(0, wander=0.0).course == search_with(1, wander=0.0).course


def test_the_prior_stays_as_it_is(prior):
    before = {key: value.clone() for key, value in prior.state_dict().items()}
    ws = latents(prior, 1)
    prior.requires_grad_(True)
    project(prior, reconstruction(torch.rand(1, 3, 16, 16), None), ws, steps=3)
    assert all(parameter.grad is None for parameter in prior.parameters())
    prior.requires_grad_(False)
    assert all(torch.equal(value, before[key]) for key, value in prior.state_dict().items())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"space": "z"}, "space: expected w or w\\+, got 'z'"),
        ({"steps": 0}, "expected one step or more, got 0"),
        ({"start": torch.zeros(1, 8)}, "start: expected N x 6 x 8, got \\(1, 8\\)"),
        ({"start": torch.zeros(1, 5, 8)}, "start: expected N x 6 x 8, got \\(1, 5, 8\\)"),
    ],
)
def test_mistakes(prior, change, text):
    words = {"start": latents(prior, 1), **change}
    with pytest.raises(ValueError, match=text):
        search.project(prior, reconstruction(torch.rand(1, 3, 16, 16), None), **words)
