"""Acceptance checks of the specification sheet for PSFR-GAN and its parsing net FPN."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frcore.faces.batch import Faces
from frcore.frozen import parsing
from frcore.methods import fpn
from frcore.methods import psfr_gan as method
from frcore.nets.losses import hinge_d, hinge_g


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tiny(**changes) -> method.Settings:
    return method.Settings(**{**method.TINY, "labels": 4, "style": False, **changes})


def tiny_parser() -> fpn.FPN:
    torch.manual_seed(1)
    settings = fpn.Settings(**{**fpn.TINY, "labels": 4})
    return fpn.build(settings).eval().requires_grad_(False)


def tiny_batch(n: int = 3, side: int = 32) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "truth": torch.rand(n, 3, side, side, generator=generator),
        "degraded": torch.rand(n, 3, side, side, generator=generator),
        "labels": torch.randint(0, 4, (n, side, side), generator=generator),
        "images_seen": 0,
    }


class Flat(nn.Module):
    """Stands in for the perceptual net: average pooling is a feature one can do by hand."""

    def forward(self, images):
        return {"pooled": F.avg_pool2d(images, 4)}


# ---- sizes


def test_parameter_counts_are_the_papers():
    paper = method.Settings(**method.PAPER)
    assert n_parameters(method.build(paper)) == 45_956_995
    assert [n_parameters(d) for d in method.Discriminators(paper).scales] == [6_290_753] * 3
    paper = fpn.Settings(size=512, labels=19, base=64, widest=256, downs=4, blocks=10)
    assert n_parameters(fpn.build(paper)) == 21_303_254


@pytest.mark.parametrize(
    ("channels", "hidden", "count"),
    [
        ((512, 256, 128, 64, 32), 64, 12_640_259),
        ((256, 256, 128, 64, 32), 64, 6_146_307),
        ((128, 128, 64, 32, 32), 32, 1_608_355),
        ((512, 512, 256, 128, 64, 32), 64, 20_926_851),
    ],
)
def test_parameter_counts_of_the_small_variants(channels, hidden, count):
    size = 4 * 2 ** (len(channels) - 1)
    settings = method.Settings(size=size, labels=19, channels=channels, hidden=hidden)
    assert n_parameters(method.build(settings)) == count


def test_small_fpn_and_discriminator_counts():
    assert n_parameters(fpn.build(fpn.Settings(labels=19))) == 17_761_750
    small = fpn.Settings(labels=19, base=32, widest=128, blocks=6)
    assert n_parameters(fpn.build(small)) == 3_266_294
    scale = method.Discriminators(method.Settings(labels=19)).scales[0]
    assert n_parameters(scale) == 1_566_529


def test_score_maps_have_the_sheets_sizes():
    # 512 px with three scales: 30, 14, 6; 64 px with two scales of depth 3: 6 and 2
    large = {"size": 512, "start": 64}
    d = method.Discriminators(tiny(**large, d_depth=4, d_base=2, discriminators=3, labels=2))
    sides = [
        scores.shape[-1] for scores, _ in d(torch.rand(1, 3, 512, 512), torch.zeros(1, 512, 512))
    ]
    assert sides == [30, 14, 6]
    d = method.Discriminators(tiny(size=64, start=8, d_depth=3, d_base=2, labels=2))
    outputs = d(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64))
    assert [scores.shape[-1] for scores, _ in outputs] == [6, 2]
    assert [len(features) for _, features in outputs] == [4, 4]  # depth + 1 each


def test_stages_that_do_not_reach_the_size_are_refused():
    with pytest.raises(ValueError, match="gives 16, expected size 32"):
        method.build(tiny(channels=(8, 8, 8)))


def test_generator_has_spectral_norm_on_every_convolution():
    generator = method.build(method.Settings(**{**method.PAPER, "channels": (8,) * 6, "hidden": 4}))
    convs = [m for m in generator.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 55
    assert all(nn.utils.parametrize.is_parametrized(conv, "weight") for conv in convs)


def test_spectral_norm_brings_the_largest_singular_value_to_one():
    torch.manual_seed(0)
    conv = method._conv(6, 10).train()
    for _ in range(50):
        conv.weight  # noqa: B018 - one power iteration each
    assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.01)


# ---- style transformation (Eq. 1, 2)


def unit(channels: int = 5, gamma: float | None = None) -> method.StyleTransformation:
    """A transformation whose gamma (and beta = 0) do not depend on the conditioning."""
    torch.manual_seed(0)
    module = method.StyleTransformation(channels, 7, 6).eval()
    if gamma is not None:
        for name, bias in (("gamma", gamma), ("beta", 0.0)):
            conv = nn.Conv2d(6, channels, 3, padding=1)
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.bias, bias)
            setattr(module, name, conv)
    return module


def test_gamma_one_beta_zero_is_instance_norm():
    x, r = torch.randn(2, 5, 8, 8) * 3 + 1, torch.rand(2, 7, 8, 8)
    y = unit(gamma=1.0)(x, r)
    torch.testing.assert_close(y.mean((2, 3)), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((2, 3), unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_gamma_zero_leaves_beta_whatever_the_features():
    module, r = unit(), torch.rand(2, 7, 8, 8)
    module.gamma = unit(gamma=0.0).gamma
    first, second = module(torch.randn(2, 5, 8, 8), r), module(torch.randn(2, 5, 8, 8) * 9, r)
    torch.testing.assert_close(first, second)
    assert first.std() > 1e-3  # beta itself is not constant


def test_transformation_ignores_scale_and_offset_of_the_features():
    module, x, r = unit(), torch.randn(2, 5, 8, 8), torch.rand(2, 7, 8, 8)
    torch.testing.assert_close(module(3 * x + 2, r), module(x, r), atol=1e-4, rtol=1e-4)


# ---- conditioning pyramid


@pytest.mark.parametrize("antialias", [True, False])
def test_pyramid_sums_to_one_over_labels_at_every_scale(antialias):
    generator, batch = method.build(tiny(antialias=antialias)), tiny_batch()
    pyramid = generator.pyramid(batch["degraded"], batch["labels"])
    assert [r.shape[-1] for r in pyramid] == [4, 8, 16, 32]
    for r in pyramid:
        torch.testing.assert_close(r[:, 3:].sum(1), torch.ones_like(r[:, 0]), atol=1e-5, rtol=0)


def test_antialiasing_averages_noise_that_the_plain_resize_keeps():
    noise = torch.randn(1, 3, 32, 32)
    plain = method.build(tiny(antialias=False, parsing=False)).pyramid(noise, None)[0]
    smooth = method.build(tiny(antialias=True, parsing=False)).pyramid(noise, None)[0]
    assert smooth.std() < 0.4 * plain.std()


def test_zero_conditioning_makes_the_output_independent_of_the_input():
    generator = method.build(tiny(parsing=False)).eval()
    zero = torch.zeros(2, 3, 32, 32)
    out = generator(zero)
    torch.testing.assert_close(out[0], out[1])
    assert not torch.allclose(generator(torch.rand(2, 3, 32, 32))[0], out[0], atol=1e-3)


def test_finest_conditioning_leaves_earlier_features_alone(monkeypatch):
    generator, batch = method.build(tiny()).eval(), tiny_batch()
    seen = []
    generator.blocks[-2].register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    generator(batch["degraded"], batch["labels"])
    pyramid = generator.pyramid(batch["degraded"], batch["labels"])
    pyramid[-1] = torch.zeros_like(pyramid[-1])
    monkeypatch.setattr(generator, "pyramid", lambda *_: pyramid)
    generator(batch["degraded"], batch["labels"])
    assert torch.equal(seen[0], seen[1])


# ---- semantic-aware style loss (Eq. 5)


def regions(n=2, k=4, side=8):
    return parsing.one_hot(torch.randint(0, k, (n, side, side)), k)


def test_gram_of_equal_regions_ignores_the_order_of_pixels():
    features, masks = torch.randn(1, 6, 8, 8), regions(1)
    order = torch.cat([m.flatten().nonzero().flip(0) for m in masks[0]]).flatten()
    place = torch.cat([m.flatten().nonzero() for m in masks[0]]).flatten()
    shuffled = features.flatten(2).clone()
    shuffled[..., place] = features.flatten(2)[..., order]
    torch.testing.assert_close(
        method.masked_gram(features, masks),
        method.masked_gram(shuffled.view_as(features), masks),
    )


def test_gram_against_a_slow_loop_and_outside_its_region():
    features, masks = torch.randn(2, 3, 4, 4, dtype=torch.float64), regions(2, 4, 4).double()
    grams = method.masked_gram(features, masks)
    for n in range(2):
        for j in range(4):
            inside = features[n][:, masks[n, j] > 0]
            wanted = inside @ inside.T / (3 * (masks[n, j].sum() + 1e-8))
            torch.testing.assert_close(grams[n, j], wanted)
    changed = features + 5 * (1 - masks[:, :1])  # everywhere but in region 0
    torch.testing.assert_close(method.masked_gram(changed, masks)[:, 0], grams[:, 0])


def test_gram_of_an_absent_label_is_zero_and_finite():
    masks = torch.zeros(1, 3, 8, 8)
    masks[:, 0] = 1
    grams = method.masked_gram(torch.randn(1, 5, 8, 8), masks)
    assert torch.isfinite(grams).all()
    assert torch.equal(grams[:, 1:], torch.zeros_like(grams[:, 1:]))


def test_grams_of_a_partition_add_up():
    features, masks = torch.randn(2, 5, 8, 8, dtype=torch.float64), regions().double()
    total = (masks.sum((2, 3)) + 1e-8)[..., None, None] * method.masked_gram(features, masks)
    flat = features.flatten(2)
    torch.testing.assert_close(total.sum(1), flat @ flat.mT / 5, atol=1e-8, rtol=1e-8)


def test_gram_grows_with_the_square_of_the_features():
    features, masks = torch.randn(1, 5, 8, 8), regions(1)
    torch.testing.assert_close(
        method.masked_gram(3 * features, masks), 9 * method.masked_gram(features, masks)
    )


def test_style_loss_is_zero_for_equal_images_and_only_reaches_the_restored():
    fake = {"a": torch.randn(2, 5, 8, 8, requires_grad=True)}
    real = {"a": torch.randn(2, 5, 8, 8, requires_grad=True)}
    labels = torch.randint(0, 4, (2, 32, 32))
    assert method.semantic_style_loss(fake, {"a": fake["a"].detach()}, labels, 4).item() == 0
    method.semantic_style_loss(fake, real, labels, 4).backward()
    assert torch.isfinite(fake["a"].grad).all() and fake["a"].grad.abs().sum() > 0
    assert real["a"].grad is None


# ---- adversarial and matching losses (Eq. 6, 7, 8)


def test_hinge_losses_by_hand():
    assert hinge_d([torch.ones(2, 1, 3, 3)], [-torch.ones(2, 1, 3, 3)]).item() == 0
    zero = [torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 2, 2)]
    assert hinge_d(zero, zero).item() == pytest.approx(1.0)
    scores = torch.zeros(2, 1, 3, 3, requires_grad=True)
    hinge_g([scores]).backward()
    torch.testing.assert_close(scores.grad, torch.full_like(scores, -1 / 18))


def test_feature_matching_by_hand():
    a, b = [[torch.zeros(1, 2, 2, 2)] * 5] * 2, [[torch.full((1, 2, 2, 2), 3.0)] * 5] * 2
    assert method.feature_matching(a, b).item() == pytest.approx(
        5 * 9
    )  # sum of layers, mean of scales
    assert method.feature_matching(a, a).item() == 0


# ---- training


def make(**changes):
    torch.manual_seed(0)
    settings = tiny(**changes)
    model = method.build(settings)
    guide = {"parser": tiny_parser(), "perceptual": Flat()}
    return method.make_trainer(model, settings, guide), model, guide


def test_step_moves_both_nets_and_none_of_the_frozen_ones():
    trainer, model, guide = make(style=True)
    before = {k: [p.clone() for p in n.parameters()] for k, n in trainer.networks.items()}
    frozen = [p.clone() for p in guide["parser"].parameters()]
    losses = trainer.step(tiny_batch())
    assert set(losses) == {"pixel", "matching", "adversarial", "style", "discriminators"}
    assert all(math.isfinite(float(v.detach())) for v in losses.values())
    for name, network in trainer.networks.items():
        moved = [not torch.equal(a, b) for a, b in zip(before[name], network.parameters())]
        assert sum(moved) > 0.8 * len(moved), name
    assert all(torch.equal(a, b) for a, b in zip(frozen, guide["parser"].parameters()))
    assert model.constant.grad.abs().sum() > 0


def test_adversarial_terms_wait_for_their_time():
    trainer, _, _ = make(adversarial_from=100, style=True)
    assert set(trainer.step(tiny_batch())) == {"pixel"}
    assert set(trainer.step(tiny_batch() | {"images_seen": 100})) > {"pixel", "style"}


@pytest.mark.parametrize(
    ("changes", "channels"),
    [({"parsing": True}, 7), ({"parsing": False}, 3)],
    ids=["with I_P", "without I_P"],
)
def test_ablation_changes_the_conditioning(changes, channels):
    _, model, _ = make(**changes)
    assert model.pyramid(torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32))[0].shape[1] == channels


def test_missing_helpers_are_refused():
    with pytest.raises(ValueError, match=r"settings\.parser"):
        method.make_trainer(method.build(tiny()), tiny(), {})
    with pytest.raises(ValueError, match="perceptual"):
        settings = tiny(style=True)
        method.make_trainer(method.build(settings), settings, {"parser": tiny_parser()})


def test_overfits_a_few_images():
    trainer, _, _ = make(adversarial_from=10**9, g_learning_rate=2e-3, channels=(32, 32, 32, 32))
    batch = tiny_batch(2)
    batch["truth"] = F.interpolate(torch.rand(2, 3, 4, 4), size=(32, 32), mode="bilinear")
    batch["degraded"] = batch["truth"]
    first = float(trainer.step(batch)["pixel"].detach())
    last = [float(trainer.step(batch)["pixel"].detach()) for _ in range(150)][-1]
    assert last < 0.25 * first
    assert last < 0.1  # in [-1, 1]: 0.05 in [0, 1]


def test_restore_clips_and_does_not_depend_on_companions():
    _, model, guide = make()
    model.eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        together = method.restore(model, Faces(images), guide)
        alone = method.restore(model, Faces(images[1:2]), guide)
    assert together.min() >= 0 and together.max() <= 1
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


# ---- FPN


def test_cross_entropy_starts_near_the_logarithm_of_the_labels():
    torch.manual_seed(0)
    settings = fpn.Settings(size=64, labels=19, base=16, widest=32, blocks=2)
    trainer = fpn.make_trainer(fpn.build(settings), settings, {})
    batch = tiny_batch(4, 64) | {"labels": torch.randint(0, 19, (4, 64, 64))}
    assert float(trainer.step(batch)["cross_entropy"].detach()) == pytest.approx(
        math.log(19), abs=0.4
    )


def test_parser_must_be_in_eval_mode_and_then_ignores_companions():
    parser = tiny_parser()
    images = torch.rand(3, 3, 32, 32)
    together = parsing.predict_labels(parser, images)
    assert torch.equal(together[:1], parsing.predict_labels(parser, images[:1]))
    assert together.dtype == torch.int64 and together.shape == (3, 32, 32)
    with pytest.raises(ValueError, match="eval mode"):
        parsing.predict_labels(parser.train(), images)


def test_image_weight_switches_the_second_task_off():
    torch.manual_seed(0)
    settings = fpn.Settings(**{**fpn.TINY, "labels": 4, "image_weight": 0.0})
    model = fpn.build(settings)
    before = [p.clone() for p in model.to_image.parameters()]
    fpn.make_trainer(model, settings, {}).step(tiny_batch())
    assert all(torch.equal(a, b) for a, b in zip(before, model.to_image.parameters()))


def test_a_convolution_and_a_mean_are_one_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1, padding_mode="reflect")
    x = torch.randn(2, 5, 16, 12)
    wanted = F.avg_pool2d(conv(x), 2)
    torch.testing.assert_close(method.halved(conv, x), wanted, rtol=1e-5, atol=1e-6)
