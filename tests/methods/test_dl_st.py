"""Acceptance checks of the specification sheet for DL-ST: learned degradation, Skip-Transformer."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import whole_config
from PIL import Image
from torch import nn
from torch.nn import functional as F

from frcore.assess import degradation as learned
from frcore.assess.prior import detected_share
from frcore.config import CATALOGUE, load_config
from frcore.degrade.apply import degrade_batch
from frcore.degrade.colour import luma
from frcore.degrade.draw import draw
from frcore.degrade.recipes import Recipe
from frcore.faces import build
from frcore.faces.batch import Faces
from frcore.frozen.guide import load_guide
from frcore.io import checkpoint
from frcore.io.assets import catalogue, present
from frcore.methods import dl_st as method
from frcore.methods import dl_st_degradation as degradation
from frcore.methods import stylegan2 as generator
from frcore.metrics import identity as semantics
from frcore.metrics import score, sets
from frcore.nets import adversary
from frcore.nets.losses import logistic_g
from frcore.nets.stylegan2 import EqualConv
from frcore.restore import aligned, models
from frcore.seeds import numpy_generator, seed_for
from frcore.train import entry, pictures
from frcore.train.data import Sample, TrainingFaces
from frcore.workflow.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
PRIOR = {**generator.TINY, "size": 32}


class Flat(nn.Module):
    """Stands in for the perceptual net: average pooling is a feature one can do by hand."""

    def __init__(self):
        super().__init__()
        self.sides = []

    def forward(self, images):
        self.sides.append(images.shape[-1])
        return {"pooled": F.avg_pool2d(images, 4)}


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def guide(**changes) -> dict:
    """A tiny prior with its discriminator; noise is loud, so that other noise would be seen."""
    torch.manual_seed(1)
    settings = generator.Settings(**{**PRIOR, **changes})
    prior = generator.build(settings)
    with torch.no_grad():
        for layer in prior.synthesis.convs():
            layer.noise_strength.fill_(0.5)
        prior.mapping.w_avg.normal_()
    critic = generator.build_discriminator(settings)
    frozen = {"prior": prior, "prior_discriminator": critic}
    return {k: net.eval().requires_grad_(False) for k, net in frozen.items()} | {
        "perceptual": Flat()
    }


def batch_of(n=4, side=32, seen=0):
    rng = torch.Generator().manual_seed(seen)
    truth = F.interpolate(torch.rand(n, 3, 4, 4, generator=rng), size=(side, side), mode="bilinear")
    degraded = F.interpolate(F.avg_pool2d(truth, 8), size=(side, side), mode="bilinear")
    return {"truth": truth, "degraded": degraded, "images_seen": seen, "step": seen // n}


# ---- degradation learning (section 3.2)


def learner(net_guide=None, **changes):
    net_guide = net_guide or guide()
    torch.manual_seed(0)
    settings = degradation.Settings(**{**degradation.TINY, "size": 32, **changes})
    model = degradation.build(settings)
    return degradation.make_trainer(model, settings, net_guide), model, net_guide


def test_red_and_green_are_equal_before_training_with_the_same_noise():
    _, model, net_guide = learner()
    clean, degraded = degradation.pairs(model, range(4))
    assert torch.equal(clean, degraded)
    assert same(model.red.state_dict(), net_guide["prior"].state_dict())
    # that the noise matters at all: another one gives another face
    z, noise = model.draw([0])
    y, _ = model(z, noise)
    assert (model(z, [-part for part in noise])[0] - y).abs().max() > 0.1


def test_red_and_mapping_stay_and_all_of_green_learns():
    trainer, model, _ = learner()
    before = copy.deepcopy(model.state_dict())
    for seen in range(0, 16, 4):
        trainer.step(batch_of(seen=seen))
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    green = {f"green.{key}" for key, _ in model.green.named_parameters()}
    assert changed == green  # styles and strengths of the noise with it; no noise map
    assert {key for key in after if key.startswith("red.mapping")} - changed


@pytest.mark.parametrize(
    ("size", "blocks", "layers"), [(64, 1, 4), (1024, 4, 13), (64, 0, 0), (512, 3, 10)]
)
def test_frozen_layers_of_the_discriminator(size, blocks, layers):
    small = {"size": size, "w_dim": 4, "c_base": 4 * size, "c_max": 4, "mapping_layers": 1}
    settings = degradation.Settings(**small, frozen_blocks=blocks, perceptual_weight=0.0)
    trainer = degradation.make_trainer(degradation.build(settings), settings, guide(**small))
    convs = [m for m in trainer.networks["discriminator"].modules() if isinstance(m, EqualConv)]
    assert sum(not any(p.requires_grad for p in m.parameters()) for m in convs) == layers


def test_frozen_layers_get_no_gradient_and_the_guide_none_either():
    trainer, _, net_guide = learner(r1_gamma_weight=0.0)
    d = trainer.networks["discriminator"]
    start = copy.deepcopy(d.state_dict())
    assert same(start, net_guide["prior_discriminator"].state_dict())
    trainer.step(batch_of())
    frozen = [*d.from_rgb.parameters(), *d.blocks[0].parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    others = {n: p for n, p in d.named_parameters() if p.requires_grad}
    assert len(others) + len(frozen) == len(list(d.parameters()))
    assert all(p.grad.abs().sum() > 0 for p in others.values())
    assert all(not torch.equal(p, start[n]) for n, p in others.items())
    assert same(start, net_guide["prior_discriminator"].state_dict())


def test_the_printed_adversarial_term_has_no_gradient_where_it_is_needed():
    """Eq. 4 as printed is -softplus(D): at D = -10 green would learn nothing."""
    logit = torch.tensor(-10.0, requires_grad=True)
    (printed,) = torch.autograd.grad(-F.softplus(logit), logit)
    assert printed.item() == pytest.approx(-4.5e-5, rel=0.02)
    (ours,) = torch.autograd.grad(logistic_g(logit), logit)
    assert ours.item() == pytest.approx(-1.0, abs=1e-4)


def test_gamma_weighs_the_adversarial_term_once(monkeypatch):
    trainer, _, _ = learner(adversarial_weight=0.01, perceptual_weight=0.0)
    kept = []
    monkeypatch.setattr(degradation, "descend", lambda _, loss: kept.append(float(loss.detach())))
    losses = trainer.step(batch_of())
    total = kept[0]
    assert losses["pixel"] == 0  # green is red
    assert total == pytest.approx(0.01 * float(losses["adversarial"].detach()), rel=1e-6)


@pytest.mark.parametrize("side", [16, 32, 64, 128, 1024])
def test_content_is_compared_at_16_px(side):
    images = torch.rand(1, 3, side, side)
    small = degradation.shrunk(images)
    assert small.shape[-1] == 16
    torch.testing.assert_close(small.mean((2, 3)), images.mean((2, 3)))
    trainer, _, net_guide = learner()
    trainer.content(images, images)
    assert net_guide["perceptual"].sides == [16, 16]


@pytest.mark.parametrize(("name", "side"), [("vgg16", 224), ("mobilenet_v2", 128)])
def test_feature_net_sees_16_px_and_gives_4(name, side, resources):
    """The layers of Eq. 3 have stride 4, and nothing is enlarged for them."""
    root = resources(name)
    settings = degradation.Settings(perceptual=name)
    row = "dl_st_degradation"
    net = load_guide(row, settings, {}, present(root), "cpu", training=True)["perceptual"]
    [features] = net(torch.rand(1, 3, 16, 16)).values()
    assert features.shape[-2:] == (4, 4)
    # DL-ST itself: conv4_3 of VGG16 has stride 8, of the enlarged image as everywhere else
    settings = method.Settings(perceptual=name)
    net = load_guide("dl_st", settings, {}, present(root), "cpu", training=True)
    [features] = net["perceptual"](torch.rand(1, 3, 64, 64)).values()
    assert features.shape[-2:] == (side // 8, side // 8)


def test_without_an_opponent_nothing_is_degraded():
    trainer, model, _ = learner(adversarial_weight=0.0)
    for seen in range(0, 12, 4):
        trainer.step(batch_of(seen=seen))
    clean, degraded = degradation.pairs(model, range(3))
    assert torch.equal(clean, degraded)


def test_green_waits_until_the_discriminator_has_changed_its_mind():
    trainer, model, _ = learner(adversarial_from=4)
    green = copy.deepcopy(model.green.state_dict())
    d = copy.deepcopy(trainer.networks["discriminator"].state_dict())
    trainer.step(batch_of(seen=0))
    assert same(green, model.green.state_dict())
    assert not same(d, trainer.networks["discriminator"].state_dict())
    trainer.step(batch_of(seen=4))
    assert not same(green, model.green.state_dict())


def test_real_faces_are_the_degraded_ones_where_a_recipe_made_them():
    trainer, _, _ = learner(mirror=False)
    seen = []
    d = trainer.networks["discriminator"]
    d.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = batch_of()
    trainer.step(batch)
    torch.testing.assert_close(seen[1], batch["degraded"] * 2 - 1)
    del seen[:], batch["degraded"]
    trainer.step(batch)
    torch.testing.assert_close(seen[1], batch["truth"] * 2 - 1)


def test_half_of_the_real_faces_are_mirrored():
    trainer, _, _ = learner()
    seen = []
    d = trainer.networks["discriminator"]
    d.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = batch_of(64)
    trainer.step(batch)
    real = batch["degraded"] * 2 - 1
    as_is = (seen[1] == real).flatten(1).all(1)
    assert (as_is | (seen[1] == real.flip(3)).flatten(1).all(1)).all()
    assert 0.3 < as_is.float().mean() < 0.7


def test_green_takes_over_what_the_discriminator_knows_it_by():
    """Dark real faces: green darkens and keeps the layout of red's faces."""
    trainer, model, _ = learner(adversarial_weight=1.0, learning_rate=0.01, r1_gamma_weight=1.0)
    for seen in range(0, 240, 4):
        torch.manual_seed(seen)
        batch = batch_of(seen=seen)
        trainer.step(batch | {"degraded": 0.2 * batch["degraded"]})
    clean, degraded = degradation.pairs(model, range(16), truncation=1.0)
    assert degraded.mean() < clean.mean() - 0.05
    layout = [degradation.shrunk(x).mean(1).flatten(1) for x in (clean, degraded)]
    both = torch.stack([torch.corrcoef(torch.stack(two))[0, 1] for two in zip(*layout)])
    other = torch.stack(
        [torch.corrcoef(torch.stack(two))[0, 1] for two in zip(layout[0], layout[1].roll(1, 0))]
    )
    assert both.mean() > other.mean() + 0.2


@pytest.mark.parametrize(
    ("changes", "missing", "words"),
    [
        ({}, "prior", "settings.prior"),
        ({}, "prior_discriminator", "holds its discriminator"),
        ({}, "perceptual", "perceptual net"),
        ({"frozen_blocks": 4}, None, "expected 0 to 3, got 4"),
        ({"c_max": 8}, None, "c_max differ from the prior's"),
        ({"mapping_layers": 1}, None, "mapping_layers"),
    ],
)
def test_learner_says_what_is_missing(changes, missing, words):
    net_guide = guide()
    net_guide.pop(missing, None)
    with pytest.raises(ValueError, match=words):
        learner(net_guide, **changes)


# ---- pairs


@pytest.fixture(scope="module")
def trained():
    """A model whose green has moved, so that the two faces of a pair differ."""
    trainer, model, _ = learner(adversarial_weight=1.0, learning_rate=0.01)
    for seen in range(0, 16, 4):
        torch.manual_seed(seen)
        trainer.step(batch_of(seen=seen))
    return model.eval()


def test_a_pair_is_its_seeds_alone(trained):
    clean, degraded = degradation.pairs(trained, range(7), batch=3)
    assert clean.shape == degraded.shape == (7, 3, 32, 32)
    assert clean.min() >= 0 and degraded.max() <= 1
    assert (clean - degraded).abs().max() > 0.01
    for order in ([6, 0, 3], [5], [2**48 - 1, 4]):
        for whole, part in zip((clean, degraded), degradation.pairs(trained, order)):
            for i, seed in enumerate(order):
                if seed < 7:
                    torch.testing.assert_close(part[i], whole[seed], atol=1e-5, rtol=0)
    again = degradation.pairs(trained, range(7), batch=3)
    assert torch.equal(again[0], clean) and torch.equal(again[1], degraded)
    assert (clean[0] - clean[1]).abs().max() > 0.05  # another seed, another face


def test_pairs_ignore_the_global_random_state(trained):
    torch.manual_seed(0)
    first = degradation.pairs(trained, [3])
    state = torch.get_rng_state()
    second = degradation.pairs(trained, [3])
    assert torch.equal(first[0], second[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_truncation_draws_pairs_together(trained):
    def spread(psi):
        return degradation.pairs(trained, range(16), psi)[0].std(0).mean()

    assert spread(0.1) < spread(1.0)
    default, same_psi = (degradation.pairs(trained, [1], *psi)[0] for psi in ((), (0.8,)))
    assert torch.equal(default, same_psi)


def test_samples_are_degraded_faces(trained):
    faces = degradation.sample(trained, 3, torch.Generator().manual_seed(5))
    seeds = torch.randint(2**48, (3,), generator=torch.Generator().manual_seed(5)).tolist()
    assert torch.equal(faces, degradation.pairs(trained, seeds, 1.0)[1])


def test_picture_has_each_clean_face_above_its_twin(trained):
    picture = pictures.pairs_picture(degradation, across=2, rows=2)(trained)
    clean, degraded = degradation.pairs(trained, range(4))
    assert picture.shape == (1, 3, 4 * 32, 2 * 32)
    assert torch.equal(picture[0, :, :32, 32:], clean[1])
    assert torch.equal(picture[0, :, 32:64, 32:], degraded[1])
    assert torch.equal(picture[0, :, 64:96, :32], clean[2])


def test_weights_file_alone_makes_pairs(trained, tmp_path):
    settings = degradation.Settings(**{**degradation.TINY, "size": 32, "prior": "gone"})
    card = {
        "name": "twins",
        "method": "dl_st_degradation",
        "settings": settings.model_dump(),
        "helpers": {"prior": "gone"},
    }
    path = tmp_path / "twins.safetensors"
    checkpoint.save_weights(path, {"model": trained.state_dict()}, card)
    for net in (
        models.load_model(path, results=tmp_path).model,
        entry.load_degraders({"twins": path}, "cpu")["twins"].args[0],
    ):
        for ours, theirs in zip(degradation.pairs(net, [4]), degradation.pairs(trained, [4])):
            assert torch.equal(ours, theirs)
    checkpoint.save_weights(path, {"model": {}}, card | {"method": "stylegan2"})
    with pytest.raises(ValueError, match="is of stylegan2, expected a degradation model"):
        entry.load_degraders({"twins": path}, "cpu")


# ---- pairs in recipes (section 3.2.4)

LEARNED = {"kind": "learned", "model": "twins"}
NOISE = {"kind": "noise", "std_255": [5, 10]}


def recipe_of(*steps, **more):
    return Recipe.model_validate({"size": 32, "steps": list(steps), **more})


@pytest.fixture(scope="module")
def source(trained):
    return {"twins": lambda seeds, psi: degradation.pairs(trained, seeds, psi)}


def drawn_of(recipe, n=4, seed=0):
    return [draw(recipe, numpy_generator(seed, i)) for i in range(n)]


def bytes_of(images):
    return (images * 255).round() / 255


def test_only_a_seed_is_drawn():
    drawn = drawn_of(recipe_of(LEARNED, NOISE))
    assert all(set(p["steps"][0]) == {"seed"} for p in drawn)
    assert len({p["steps"][0]["seed"] for p in drawn}) == 4
    assert drawn == drawn_of(recipe_of(LEARNED, NOISE))


@pytest.mark.parametrize("operators", ["batched", "cpu"])
@pytest.mark.parametrize("image", ["degraded", "clean"])
def test_truth_is_red_and_the_image_named_goes_on(trained, source, image, operators):
    recipe = recipe_of(LEARNED | {"image": image, "truncation": 0.5})
    photographs, params = torch.rand(4, 3, 32, 32), drawn_of(recipe)
    made, truth = degrade_batch(photographs, recipe, params, source, operators)
    seeds = [p["steps"][0]["seed"] for p in params]
    clean, degraded = degradation.pairs(trained, seeds, 0.5)
    for given, wanted in ((truth, clean), (made, degraded if image == "degraded" else clean)):
        assert torch.equal(given, bytes_of(given))  # as if read from files
        assert (given - wanted).abs().max() < 0.51 / 255
    # the photographs say only how many: others give the same
    again = degrade_batch(torch.zeros(4, 3, 32, 32), recipe, params, source, operators)
    assert torch.equal(again[0], made) and torch.equal(again[1], truth)


def test_second_order_goes_on_from_the_pair(source):
    first, second = recipe_of(LEARNED), recipe_of(LEARNED, NOISE)
    params = drawn_of(second)
    faces = torch.rand(4, 3, 32, 32)
    once, truth = degrade_batch(
        faces, first, [{**p, "steps": p["steps"][:1]} for p in params], learned=source
    )
    twice, same_truth = degrade_batch(faces, second, params, learned=source)
    assert torch.equal(truth, same_truth)
    stds = [p["steps"][1]["std_255"] / 255 for p in params]
    for a, b, std in zip(once, twice, stds):
        inside = (a > 0.2) & (a < 0.8)  # where nothing is clipped
        assert (b - a)[inside].std().item() == pytest.approx(std, rel=0.15)


def test_recipe_needs_its_model_and_its_size(source):
    recipe = recipe_of(LEARNED)
    faces = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match="needs the trained degradation model 'twins'"):
        degrade_batch(faces, recipe, drawn_of(recipe, 2))
    large = Recipe.model_validate({"size": 64, "steps": [LEARNED]})
    with pytest.raises(ValueError, match="twins makes faces of 32 px, the recipe is for 64 px"):
        degrade_batch(torch.rand(1, 3, 64, 64), large, drawn_of(large, 1), learned=source)


def test_no_test_set_is_made_of_pairs():
    with pytest.raises(ValueError, match="twins have a truth of their own: no test set"):
        draw(recipe_of(LEARNED), numpy_generator(0), for_test=True)


@pytest.fixture
def faces(tmp_path, source):
    """Training faces under two recipes, one of photographs and one of pairs: method (2)."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(str(i), path))
    return TrainingFaces(samples, 3, [recipe_of(NOISE), recipe_of(LEARNED, NOISE)], source)


def test_batches_mix_photographs_and_pairs(faces):
    photographs = torch.cat([faces.truth([i], torch.device("cpu")) for i in range(6)])

    def is_photograph(truth):
        return bool((truth - photographs).abs().flatten(1).max(1).values.min() < 1e-6)

    device, found = torch.device("cpu"), []
    for position in range(0, 96, 8):
        batch = faces.batch(position, 8, device)
        found += [is_photograph(truth) for truth in batch["truth"]]
        again = faces.batch(position, 8, device)
        assert torch.equal(again["truth"], batch["truth"])
        assert torch.equal(again["degraded"], batch["degraded"])
    assert 0.3 < np.mean(found) < 0.7
    fixed = faces.fixed_batch(6, device)
    assert fixed["truth"].shape == fixed["degraded"].shape


def test_label_maps_of_pairs_are_those_of_the_clean_face(tmp_path, source):
    """PSFR-GAN reads maps of the truth: a file's for photographs, a parser's for pairs."""
    path, maps = tmp_path / "a.png", tmp_path / "labels.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    Image.fromarray(np.full((32, 32), 7, np.uint8)).save(maps)
    recipes = [recipe_of(NOISE), recipe_of(LEARNED, NOISE)]
    with pytest.raises(ValueError, match="generated faces have no parsing maps"):
        TrainingFaces([Sample("a", path, maps)], 3, recipes, source)

    def parse(images):  # a map that says which image it was made of
        return (images.mean(1) * 255).round().long()

    faces = TrainingFaces([Sample("a", path, maps)], 3, recipes, source, parse)
    batch = faces.batch(0, 24, torch.device("cpu"))
    photographs = batch["truth"].flatten(1).amax(1) == 0
    assert 4 < photographs.sum() < 20
    for truth, labels, photograph in zip(batch["truth"], batch["labels"], photographs):
        wanted = torch.full_like(labels, 7) if photograph else parse(truth[None])[0]
        assert torch.equal(labels, wanted)


# ---- the configuration


@pytest.fixture
def data():
    return whole_config()


def test_mistakes_around_learned_recipes_are_one_line_each(data):
    recipes, models = data["degradations"], data["models"]
    recipes["a_64"] = {"size": 64, "steps": [{"kind": "learned", "model": "dl64"}]}
    recipes["b_64"] = {"size": 64, "steps": [{"kind": "learned", "model": "psfrgan_64"}]}
    recipes["c"] = {"size": 128, "steps": [{"kind": "learned", "model": "dl_64"}]}
    data["run"]["degradations"] = ["x4_64", "learned_64"]
    models["fpn_64"]["train"]["degradations"] = ["learned_64"]
    models["dl_64"]["train"] |= {"datasets": ["orl"], "degradations": ["second_order_64"]}
    models["stylegan2-64"]["train"]["degradations"] = ["x4_64"]
    models["dl_st_64"]["train"]["degradations"] = []
    data["run"]["models"] = ["bicubic", "dl_64"]
    with pytest.raises(ValueError) as caught:
        load_config(data)
    assert sorted(caught.value.mistakes) == [
        "degradations.a_64.steps.0.model: no entry 'dl64' (did you mean 'dl_64'?)",
        "degradations.b_64.steps.0.model: psfrgan_64 is no degradation model",
        "degradations.c.steps.0.model: dl_64 makes faces of 64 px, the recipe is for 128 px",
        "models.dl_64.train.degradations: second_order_64 is learned: a degradation is learnt from "
        "photographs",
        "models.dl_st_64.train.degradations: name one or more",
        "models.fpn_64.train.degradations: learned_64 is learned: generated faces have no parsing "
        "maps but those of settings.parser",
        "models.stylegan2-64.train.degradations: it sees clean faces alone",
        "run.degradations: learned_64 makes true faces of its own (step learned), no test set; "
        "train with it",
        "run.models: dl_64 makes faces and restores none",
    ]


def test_real_photographs_need_no_recipe(data):
    data["models"]["dl_64"]["train"] |= {"datasets": ["orl"], "degradations": []}
    job = Plan(load_config(data), None, catalogue(), CATALOGUE).train_model("dl_64")
    assert (job.entry.train.datasets, job.recipes) == (("orl",), {})


def test_weights_that_training_and_restoring_read(data):
    data["run"]["models"] = ["bicubic", "dl_st_64"]
    config = load_config(data)
    plan = Plan(config, None, catalogue(), CATALOGUE)
    assert config.degraders_of("dl_st_64") == ["dl_64"]
    assert config.degraders_of("dl_st_64_gfpgan") == []
    assert config.helpers_of("dl_st_64") == {"prior": "stylegan2-64"}
    assert config.helpers_of("dl_st_64", training=False) == {}
    assert config.used_models() == ["bicubic", "dl_st_64", "stylegan2-64", "dl_64"]
    assert plan.trained_models() == ["dl_st_64", "stylegan2-64", "dl_64"]
    assert plan.weights_of("dl_st_64") == ["results/models/dl_st_64/weights.safetensors"]
    assert "dl_64" not in plan.priors()
    job = plan.train_model("dl_st_64")
    assert job.degraders == {"dl_64": "results/models/dl_64/weights.safetensors"}
    assert job.recipes["second_order_64"].learned == "dl_64"
    # an entry with finished weights needs nothing to be trained
    del data["models"]["dl_st_64"]["train"]
    data["models"]["dl_st_64"]["weights"] = "mine.safetensors"
    assert load_config(data).used_models() == ["bicubic", "dl_st_64"]


# ---- Skip-Transformer (section 3.3)


def restorer(net_guide=None, **changes):
    net_guide = net_guide or guide()
    torch.manual_seed(0)
    settings = method.Settings(**{**method.TINY, "size": 32, **changes})
    model = method.build(settings)
    return method.make_trainer(model, settings, net_guide), model, net_guide


@pytest.mark.parametrize(
    ("settings", "encoder", "skips"),
    [
        (method.PAPER, 46.0, 163.4),
        ({"c_base": 32768, "c_max": 512, "encoder_max": 512}, 48.7, 144.9),
        ({"c_max": 256, "encoder_max": 256}, 17.1, 36.3),
        ({"c_max": 128, "encoder_max": 128}, 4.8, 9.1),
    ],
    ids=["512 px", "64 px, 512", "64 px, 256", "64 px, 128"],
)
def test_parameter_counts_are_the_sheets(settings, encoder, skips):
    with torch.device("meta"):
        model = method.build(method.Settings(**settings))
    assert n_parameters(model.encoder) / 1e6 == pytest.approx(encoder, abs=0.05)
    assert n_parameters(model.skips) / 1e6 == pytest.approx(skips, abs=0.06)


def test_one_skip_layer_of_full_width_has_36_million():
    with torch.device("meta"):
        layer = method.SkipLayer(512, 512, 32, True)
    assert n_parameters(layer) / 1e6 == pytest.approx(36.2, abs=0.05)


def test_nine_blocks_at_512():
    with torch.device("meta"):
        model = method.build(method.Settings(**{**method.PAPER, "encoder_max": 16, "c_max": 16}))
        features, w = model.encoder(torch.empty(1, 3, 512, 512))
    assert list(features) == [256, 128, 64, 32, 16, 8, 4]
    assert len(model.encoder.first) == 4  # residual blocks of the first, at 512
    assert w.shape == (1, 512)
    assert list(model.skips) == ["4", "8", "16", "32", "64", "128", "256"]
    attention = [block.attention is not None for block in model.encoder.blocks]
    assert attention == [False, False, False, True, True, True, True]
    for side, skip in model.skips.items():
        assert (skip.block.attention is not None) == (int(side) <= 32)


def test_begins_as_the_mean_face_of_the_prior():
    _, model, net_guide = restorer()
    prior = net_guide["prior"]
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        mean = prior.synthesis(prior.to_rows(prior.mapping.w_avg[None]).expand(3, -1, -1), "fixed")
        assert torch.equal(model(x), mean)
    assert mean.std() > 0.1


@pytest.mark.parametrize("sides", [(), (8,), (8, 16), (4, 8, 16)])
def test_skip_sides_are_those_named(sides):
    _, model, _ = restorer(skip_sides=sides)
    assert list(model.skips) == [str(side) for side in sides]
    with torch.no_grad():  # features reach the image through these alone
        for skip in model.skips.values():
            skip.conv.weight.normal_(std=0.1)
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        moved = (model(images)[0] - model(images)[1]).abs().max()
    assert (moved > 1e-3) == bool(sides)


@pytest.mark.parametrize("sides", [(32,), (2,), (8, 12)])
def test_skip_sides_that_are_not_there_are_refused(sides):
    with pytest.raises(ValueError, match=r"skip_sides: no features of side .* \[4, 8, 16\]"):
        restorer(skip_sides=sides)


@pytest.mark.parametrize(("p", "side"), [(1, 4), (2, 16), (4, 8)])
def test_patch_division_and_merge_are_inverse(p, side):
    x = torch.randn(2, 5, side, side)
    tokens = method.patches(x, p)
    assert tokens.shape == (2, side**2 // p**2, 5 * p**2)
    assert torch.equal(method.merged(tokens, p, side), x)
    # the first token is the upper left patch, channel by channel
    assert torch.equal(tokens[0, 0], x[0, :, :p, :p].flatten())


def test_tokens_of_the_sheet():
    counts = {}
    for side in (32, 16, 8, 4):
        layer = method.SelfAttention(4, side)
        counts[side] = (side // layer.p) ** 2
    assert counts == {32: 256, 16: 64, 8: 64, 4: 16}


def test_attention_averages_values_with_weights_that_sum_to_one():
    q, k, v = (torch.randn(2, 6, 8, dtype=torch.float64) for _ in range(3))
    ones = method.attend(q, k, torch.ones_like(v))
    torch.testing.assert_close(ones, torch.ones_like(v))
    order = torch.randperm(6)
    torch.testing.assert_close(method.attend(q, k[:, order], v[:, order]), method.attend(q, k, v))
    by_hand = F.scaled_dot_product_attention(q, k, v)  # scale 1 / sqrt(length of a token)
    torch.testing.assert_close(method.attend(q, k, v), by_hand)
    # logits of unit variance for tokens of any length, where unscaled ones saturate
    q, k = torch.randn(1, 256, 2048), torch.randn(1, 256, 2048)
    logits = q @ k.transpose(1, 2)
    assert logits.softmax(-1).max(-1).values.mean() > 0.9
    assert (logits / math.sqrt(2048)).softmax(-1).max(-1).values.mean() < 0.1


def test_without_attention_the_residual_parts_remain():
    _, model, _ = restorer(attention=False)
    _, whole, _ = restorer()
    assert not [m for m in model.modules() if isinstance(m, method.SelfAttention)]
    assert len([m for m in whole.modules() if isinstance(m, method.SelfAttention)]) == 3 + 3
    rest = {key for key in whole.state_dict() if ".attention." not in key}
    assert set(model.state_dict()) == rest


def test_attention_sees_the_whole_face():
    block = method.Block(4, 8, True)
    nn.init.normal_(block.attention.out.weight)
    x = torch.randn(1, 4, 8, 8)
    other = x.clone()
    other[:, :, 7, 7] += 5
    moved = (block(x) - block(other)).abs().amax(1)[0]
    assert moved[0, 0] > 1e-6  # seven pixels away: convolutions alone reach three


def test_decoder_learns_at_a_tenth_and_restarts():
    trainer, model, _ = restorer(restart_images=40, learning_rate=1e-3, least_rate=1e-5)
    rates, critic = [], []
    for seen in range(0, 120, 4):
        trainer.rates(seen)
        new, decoder = trainer.optimizers["model"].param_groups
        assert decoder["lr"] == pytest.approx(0.1 * new["lr"], rel=1e-12)
        rates.append(new["lr"])
        critic.append(trainer.optimizers["discriminator"].param_groups[0]["lr"])
    assert rates[0] == rates[10] == rates[20] == pytest.approx(1e-3)
    assert rates[:10] == pytest.approx(
        [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]
    )
    assert rates[:10] == sorted(rates[:10], reverse=True)
    assert critic[0] == critic[10] > critic[9]
    decoder = {id(p) for p in trainer.optimizers["model"].param_groups[1]["params"]}
    assert decoder == {id(p) for p in model.decoder.parameters()}
    both = sum(len(group["params"]) for group in trainer.optimizers["model"].param_groups)
    assert both == len(list(model.parameters()))


def test_schedule_is_a_function_of_the_images_seen():
    def rate(places):
        trainer, _, _ = restorer(restart_images=40)
        for seen in places:
            trainer.rates(seen)
        saved = copy.deepcopy({k: v.state_dict() for k, v in trainer.schedulers.items()})
        again, _, _ = restorer(restart_images=40)
        for name, scheduler in again.schedulers.items():
            scheduler.load_state_dict(saved[name])
        again.rates(places[-1] + 4)
        return again.optimizers["model"].param_groups[0]["lr"]

    assert rate(range(0, 60, 4)) == rate([56])


def test_losses_reach_every_part_and_leave_the_prior_alone():
    trainer, model, net_guide = restorer()
    frozen = copy.deepcopy({k: net_guide[k].state_dict() for k in ("prior", "prior_discriminator")})
    before = copy.deepcopy(model.state_dict())
    for seen in range(0, 16, 4):
        losses = trainer.step(batch_of(seen=seen))
    assert set(losses) == {"pixel", "perceptual", "adversarial", "discriminator"}
    for name, tensor in model.named_parameters():
        assert not torch.equal(tensor, before[name]), name
    assert torch.equal(model.w_avg, before["w_avg"])
    for key, state in frozen.items():
        assert same(state, net_guide[key].state_dict()), key
    noise = [key for key in before if key.endswith(".noise")]
    assert noise
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in noise)


def test_total_is_eq_8(monkeypatch):
    trainer, _, _ = restorer(pixel_weight=2.0, perceptual_weight=3.0, adversarial_weight=5.0)
    kept = []
    for module in (method, adversary):
        monkeypatch.setattr(module, "descend", lambda _, loss: kept.append(float(loss.detach())))
    losses = {k: float(v.detach()) for k, v in trainer.step(batch_of()).items()}
    total = 2 * losses["pixel"] + 3 * losses["perceptual"] + 5 * losses["adversarial"]
    assert kept[0] == pytest.approx(total, rel=1e-5)
    assert kept[1] == pytest.approx(losses["discriminator"], rel=1e-6)


def test_without_adversary_the_discriminator_rests():
    trainer, _, net_guide = restorer(adversarial_weight=0.0)
    assert set(trainer.step(batch_of())) == {"pixel", "perceptual"}
    critic = net_guide["prior_discriminator"].state_dict()
    assert same(trainer.networks["discriminator"].state_dict(), critic)


def test_restores_without_the_prior(tmp_path):
    _, model, _ = restorer(prior="gone")
    card = {
        "name": "st",
        "method": "dl_st",
        "settings": method.Settings(**{**method.TINY, "size": 32, "prior": "gone"}).model_dump(),
        "helpers": {"prior": "gone"},
    }
    path = tmp_path / "st.safetensors"
    checkpoint.save_weights(path, {"model": model.state_dict()}, card)
    loaded = models.load_model(path, results=tmp_path)
    assert loaded.guide == {}
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        wanted = method.restore(model, Faces(image), {})
    assert torch.equal(aligned.restore_faces(loaded, image, ["a"]), wanted)


@pytest.mark.parametrize(
    ("changes", "missing", "words"),
    [
        ({}, "prior", "settings.prior"),
        ({}, "prior_discriminator", "holds its discriminator"),
        ({}, "perceptual", "perceptual net"),
        ({"c_max": 8}, None, "c_max differ from the prior's"),
        ({"w_dim": 8}, None, "w_dim"),
    ],
)
def test_restorer_says_what_is_missing(changes, missing, words):
    net_guide = guide()
    net_guide.pop(missing, None)
    with pytest.raises(ValueError, match=words):
        restorer(net_guide, **changes)


def test_overfits_a_few_faces():
    """Without adversary, to 30 dB; four pairs where the sheet takes 64, and a fast decoder."""
    width = {"size": 16, "c_base": 512, "c_max": 32}
    trainer, model, _ = restorer(
        guide(**width),
        **width,
        encoder_base=512,
        encoder_max=32,
        adversarial_weight=0.0,
        perceptual_weight=0.0,
        betas=(0.9, 0.99),
        learning_rate=2e-3,
        decoder_rate=1.0,
        restart_images=2400,
    )
    batch = batch_of(4, 16)
    for step in range(400):
        trainer.step(batch | {"images_seen": 4 * step})
    with torch.no_grad():
        restored = method.restore(model.eval(), Faces(batch["degraded"]), {})
    before, after = (
        -10 * F.mse_loss(x, batch["truth"]).log10() for x in (batch["degraded"], restored)
    )
    assert before < 20
    assert after > 30


# ---- the shipped weights


def shipped(name):
    path = CATALOGUE / "weights" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"weights/{name}.safetensors is not shipped")
    return models.load_model(path).model


@pytest.fixture(scope="module")
def bad_faces(tmp_path_factory, resources):
    """Faces that dl_64 learnt from: ORL's training people, shrunk as its entry says."""
    shipped("dl_64")  # nothing to prepare without it
    config = load_config(ROOT / "config.yaml")
    train = config.models["dl_64"].train
    dataset = config.datasets[train.datasets[0]].model_copy(update={"shards": 1})
    work, assets = tmp_path_factory.mktemp("orl"), resources("orl", "dlib_68")
    parts = work / "faces" / "0000", work / "part.csv", work / "part.quarantine.csv"
    build.build_shard("orl", dataset, 0, assets, 0, *parts)
    tables = work / "faces.csv", work / "quarantine.csv"
    build.join_shards("orl", dataset, config.seed, [parts[1]], [parts[2]], *tables)
    files = build.face_files(tables[0], work / "faces", "train")
    recipes = [config.degradations[name] for name in train.degradations]
    faces = TrainingFaces([Sample(i, path) for i, path in files], 0, recipes)
    # all of them: the fewer, the more the distances of small sets are of their smallness
    return faces.fixed_batch(len(faces), torch.device("cpu"))["degraded"]


def test_shipped_degradation_does_what_it_was_to_learn(bad_faces, resources):
    """Sheet 3.6: layout, identity, fine energy and distance to the real faces.

    The real faces are grey. A face and its own grey correlate by 0.88 over colours, below the
    sheet's 0.9: what a degradation keeps that takes the colour is told by luma.
    """
    model = shipped("dl_64")
    root = present(resources("mobilenet_v2", "dlib_resnet"))
    seeds = [seed_for("shipped", i) for i in range(len(bad_faces))]
    clean, degraded = degradation.pairs(model, seeds)
    assert learned.layout_correlation(luma(clean), luma(degraded)) > 0.9
    assert learned.fine_energy(degraded) < 0.7 * learned.fine_energy(clean)
    nets = score.load_nets(root, ["fid_mobilenetv2", "id_dlib"])
    found, before, real = (
        score.set_features(x, ["fid_mobilenetv2"], nets)["mobilenet_v2"]
        for x in (degraded, clean, bad_faces)
    )
    assert sets.frechet_distance(found, real) < 0.9 * sets.frechet_distance(before, real)
    same, other = (
        semantics.id_dlib(degraded[:40], x[:40], nets["dlib_resnet"], 0.7, 0.1)
        for x in (clean, clean.roll(1, 0))
    )
    assert same.mean() > other.mean() + 2 * (same.std() + other.std()) / math.sqrt(40)


def test_shipped_restorer_takes_the_face_from_its_skip_layers(resources, monkeypatch):
    """Sheet 3.6: without the encoder's features another face comes out, but a face."""
    model = shipped("dl_st_64")
    recipe = load_config(ROOT / "config.yaml").degradations["gfpgan_plain_64"]
    clean, _ = degradation.pairs(shipped("dl_64"), range(16), 0.7)
    degraded, _ = degrade_batch(clean, recipe, drawn_of(recipe, 16))
    restored = method.restore(model, Faces(degraded), {})
    encode = model.encoder.forward

    def blind(x):
        features, offset = encode(x)
        return {side: torch.zeros_like(f) for side, f in features.items()}, offset

    monkeypatch.setattr(model.encoder, "forward", blind)
    without = method.restore(model, Faces(degraded), {})
    assert F.mse_loss(restored, clean) < 0.5 * F.mse_loss(without, clean)
    assert learned.layout_correlation(restored, clean) > 0.9
    assert detected_share(without, resources("dlib_68")) > 0.5


def test_shipped_settings_are_the_catalogue_s():
    models = load_config(ROOT / "config.yaml").models
    for name in ("dl_64", "dl_st_64"):
        shipped(name)
        card = checkpoint.read_card(CATALOGUE / "weights" / f"{name}.safetensors")
        module = {"dl_64": degradation, "dl_st_64": method}[name]
        assert module.Settings(**models[name].settings) == module.Settings(**card["settings"])
