"""What happens in one step of every trainer: which tensor goes where, and which way it pushes."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from test_registry import TRAINED, batch_of, tiny
from torch import nn
from torch.nn import functional as F

from frcore.config import CATALOGUE, load_settings, read_yaml
from frcore.frozen import parsing, perceptual
from frcore.methods import dl_st, fpn, psfr_gan, rdfr
from frcore.methods import dl_st_degradation as degradation
from frcore.methods import stylegan2 as generator
from frcore.methods import stylegan2_encoder as encoder
from frcore.nets import adversary as adversaries
from frcore.nets.adversary import KINDS, Adversary
from frcore.nets.augment import colour_and_translation
from frcore.nets.losses import descend, logistic_d, logistic_g, supervised
from frcore.registry import load_method

RESTORERS = ("psfr_gan", "rdfr", "dl_st", "fpn")  # the true face is not for them to see
GANS = ("psfr_gan", "rdfr", "dl_st", "dl_st_degradation", "stylegan2")
# settings under which every term and every lazy step of a method takes part at once
ALL_TERMS = {
    "psfr_gan": {},
    "rdfr": {"warmup_images": 0, "r1_every": 2},
    "dl_st": {"r1_every": 2},
    "dl_st_degradation": {"mirror": False, "r1_every": 2},
    "stylegan2": {"mirror": False, "r1_every": 2, "path_every": 2},
}


def trainer_of(name, **changes):
    """(trainer, guide) of a method at its TINY size, all its terms on."""
    module = load_method(name)
    before = module.TINY
    module.TINY = {**before, **ALL_TERMS.get(name, {}), **changes}
    try:
        _, settings, model, guide = tiny(name)
    finally:
        module.TINY = before
    torch.manual_seed(3)
    trainer = module.make_trainer(model, settings, guide)
    for network in trainer.networks.values():
        network.train()
    if name == "dl_st_degradation":  # twins that differ, as they do once something is learnt
        with torch.no_grad():
            for parameter in model.green.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return trainer, guide


def step(trainer, batch, seed=5):
    torch.manual_seed(seed)
    return trainer.step(batch)


def critic(trainer) -> nn.Module:
    return trainer.adversary.d


def weights(network) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@contextlib.contextmanager
def calls_of(module: nn.Module):
    """[(inputs, output)] of every pass of a network."""
    found = []
    hook = module.register_forward_hook(lambda _, given, out: found.append((given, out)))
    try:
        yield found
    finally:
        hook.remove()


def real_of(name, batch) -> torch.Tensor:
    """What the discriminator must take for real, in [-1, 1]."""
    return batch["degraded" if name == "dl_st_degradation" else "truth"] * 2 - 1


# ---- which tensor goes into which network


@pytest.mark.parametrize("name", RESTORERS)
def test_a_restorer_sees_the_degraded_face_and_nothing_of_the_true_one(name):
    batch = batch_of(trainer_of(name)[0].settings)
    others = {**batch, "truth": batch["truth"].flip(0), "labels": batch["labels"].flip(0)}
    seen = []
    for given in (batch, others):
        trainer, _ = trainer_of(name)
        with calls_of(trainer.networks["model"]) as calls:
            step(trainer, given)
        [(inputs, output)] = calls  # one pass a step
        seen.append((inputs, output[0] if isinstance(output, tuple) else output))
        assert torch.equal(inputs[0], batch["degraded"] * 2 - 1)
    (first, image), (second, again) = seen
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert torch.equal(image, again)


@pytest.mark.parametrize("name", GANS)
def test_real_goes_in_as_real_and_fake_as_fake(name):
    trainer, _ = trainer_of(name)
    batch = batch_of(trainer.settings)
    trainer.adversary.augment = lambda images: images
    losses = []
    usual = trainer.adversary.d_loss
    trainer.adversary.d_loss = lambda *both: losses.append(both) or usual(*both)
    with calls_of(critic(trainer)) as calls:
        step(trainer, batch)
    [(real, fake)] = losses
    flat = trainer.adversary.scores
    images_of = {id(score): given[0] for given, out in calls for score in as_list(flat(out))}
    for score in as_list(real):
        assert torch.equal(images_of[id(score)], real_of(name, batch))
    for score in as_list(fake):
        made = images_of[id(score)]
        assert not torch.equal(made, real_of(name, batch)) and not made.requires_grad
        assert not torch.equal(made, batch["truth"] * 2 - 1)


def as_list(scores):
    return scores if isinstance(scores, list) else [scores]


@pytest.mark.parametrize("name", GANS)
def test_every_image_that_a_discriminator_sees_is_augmented(name):
    trainer, _ = trainer_of(name)
    made, usual = [], trainer.adversary.augment

    def marked(images):
        made.append(usual(images).clone())
        return made[-1]

    trainer.adversary.augment = marked
    batch = batch_of(trainer.settings)
    with calls_of(critic(trainer)) as calls:
        losses = step(trainer, batch)
    assert len(calls) == len(made) >= 3  # the generator's, real, made
    assert "r1" in losses or name == "psfr_gan"
    for given, _ in calls:
        assert any(given[0] is image for image in made)


def test_methods_augment_as_they_say():
    assert trainer_of("rdfr")[0].adversary.augment is colour_and_translation
    for name, changes, moves in (
        ("stylegan2", {"ada_target": 0.6}, True),
        ("stylegan2", {}, False),
        ("dl_st_degradation", {"shift": 3}, True),
        ("dl_st_degradation", {}, False),
        ("dl_st", {}, False),
        ("psfr_gan", {}, False),
    ):
        trainer, _ = trainer_of(name, **changes)
        if getattr(trainer, "ada", None):
            trainer.ada.p = 1.0
        images = batch_of(trainer.settings)["truth"]
        assert torch.equal(trainer.adversary.augment(images), images) != moves, name


def test_psfr_gan_conditions_on_the_true_map_and_styles_by_it(monkeypatch):
    trainer, guide = trainer_of("psfr_gan")
    batch = batch_of(trainer.settings)
    assert not torch.equal(
        parsing.predict_labels(guide["parser"], batch["degraded"]), batch["labels"]
    )
    styled = []
    usual = psfr_gan.semantic_style_loss
    monkeypatch.setattr(
        psfr_gan, "semantic_style_loss", lambda *words: styled.append(words) or usual(*words)
    )
    with calls_of(trainer.adversary.d) as calls:
        step(trainer, batch)
    assert len(calls) == 4 and all(given[1] is batch["labels"] for given, _ in calls)
    [(fake, real, labels, n)] = styled
    assert labels is batch["labels"] and n == trainer.settings.labels
    true = guide["perceptual"](batch["truth"])
    assert all(torch.allclose(real[tap], true[tap]) for tap in true)
    assert not any(torch.allclose(fake[tap], true[tap]) for tap in true)
    with calls_of(trainer.networks["model"]) as calls:
        step(trainer, batch)
    [(given, _)] = calls
    assert torch.equal(given[1], parsing.predict_labels(guide["parser"], batch["degraded"]))


def test_rdfr_learns_its_codes_from_true_faces_alone():
    trainer, _ = trainer_of("rdfr")
    model, fed = trainer.networks["model"], []
    encode = model.encode
    model.encode = lambda x: fed.append(x) or encode(x)
    batch = batch_of(trainer.settings)
    step(trainer, batch)
    restoring, learning = fed
    assert torch.equal(restoring, batch["degraded"] * 2 - 1)
    assert torch.equal(learning, batch["truth"] * 2 - 1)


def test_the_encoder_sees_real_faces_and_known_ones():
    trainer, guide = trainer_of("stylegan2_encoder")
    model, fed = trainer.networks["model"], []
    latents = model.latents
    model.latents = lambda x: fed.append(x) or latents(x)
    batch = batch_of(trainer.settings)
    losses = step(trainer, batch)
    [target] = fed
    n = round(trainer.settings.sampled * len(target))
    assert 0 < n < len(target)
    assert torch.equal(target[n:], batch["truth"][n:] * 2 - 1)
    assert target[:n].abs().max() <= 1 and not torch.equal(target[:n], batch["truth"][:n] * 2 - 1)
    trainer, guide = trainer_of("stylegan2_encoder")
    torch.manual_seed(5)
    prior = guide["prior"]
    known = prior.to_rows(prior.mapping(prior.draw(n)))
    ws = trainer.networks["model"].forward(target)
    torch.testing.assert_close(losses["latent"], F.mse_loss(ws[:n], known))
    torch.testing.assert_close(losses["pixel"], F.mse_loss(prior.synthesis(ws, "fixed"), target))
    # e4e's Eq. 1: squares of an image's offsets add up, and images are averaged
    with torch.no_grad():
        for parameter in trainer.networks["model"].parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model = trainer.networks["model"]
    model.released.fill_(model.rows)
    trainer.settings = trainer.settings.model_copy(update={"release_images": 1})
    _, offsets = model.latents(target)
    torch.manual_seed(5)
    losses = trainer.step(batch_of(trainer.settings, 100) | {"truth": batch["truth"]})
    assert offsets.abs().sum() > 0
    torch.testing.assert_close(losses["delta"], offsets.square().sum((1, 2)).mean())


def test_degradation_learns_from_bad_faces_and_its_own_clean_ones(monkeypatch):
    trainer, _ = trainer_of("dl_st_degradation")
    batch = batch_of(trainer.settings)
    with calls_of(trainer.networks["model"]) as calls:
        losses = step(trainer, batch)
    [(given, (y, y_hat))] = calls
    assert not any(x.requires_grad for x in given if torch.is_tensor(x))
    torch.testing.assert_close(losses["pixel"], F.mse_loss(y_hat, y))
    assert losses["pixel"] > 1e-4
    seen = []
    monkeypatch.setattr(trainer.adversary, "learn", lambda *words: seen.append(words) or (0, 0))
    with calls_of(trainer.networks["model"]) as calls:
        step(trainer, {k: v for k, v in batch.items() if k != "degraded"})
    [(real, fake)] = seen
    assert torch.equal(real, batch["truth"] * 2 - 1)  # no recipe: they are bad as they come
    assert torch.equal(fake, calls[0][1][1])  # the degraded twins, not the clean ones


# ---- which way it pushes


@pytest.mark.parametrize("kind", KINDS)
def test_losses_want_real_up_and_fake_down(kind):
    d_loss, g_loss = KINDS[kind]
    wrap = (lambda x: [x]) if kind == "hinge" else (lambda x: x)
    real, fake = (torch.full((4, 1), 0.5, requires_grad=True) for _ in range(2))
    d_loss(wrap(real), wrap(fake)).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fooled = torch.zeros(4, 1, requires_grad=True)
    g_loss(wrap(fooled)).backward()
    assert (fooled.grad < 0).all()


OTHER_TERMS = {
    "psfr_gan": ("pixel_weight", "matching_weight", "style_weight"),
    "rdfr": ("pixel_weight", "perceptual_weight", "commitment_weight"),
    "dl_st": ("pixel_weight", "perceptual_weight"),
    "dl_st_degradation": ("pixel_weight", "perceptual_weight"),
    "stylegan2": ("path_weight",),
}


@pytest.mark.parametrize("name", GANS)
def test_the_generator_raises_the_score_of_what_it_makes(name):
    trainer, _ = trainer_of(name)
    weight = {"adversarial_weight": 1.0} if name != "stylegan2" else {}
    if name == "rdfr":
        weight["warmup_images"] = 10**9  # codes would change the images
    trainer.settings = trainer.settings.model_copy(
        update={**dict.fromkeys(OTHER_TERMS[name], 0.0), **weight}
    )
    for optimizer in trainer.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
    trainer.rates = {"model": 1e-4, "discriminator": 0.0} if name == "rdfr" else getattr(
        trainer, "rates", None)  # fmt: skip
    trainer.adversary.augment = lambda images: images
    trainer.adversary.learn = lambda *_: (torch.zeros(()), torch.zeros(1))
    trainer.adversary.penalise = lambda *_: {}
    fooled = []
    usual = trainer.adversary.g_loss
    trainer.adversary.g_loss = lambda scores: fooled.append(usual(scores)) or fooled[-1]
    critic(trainer).eval()  # spectral norm's vectors stay
    batch = batch_of(trainer.settings, seen=0)
    for _ in range(4):  # the same faces and numbers again and again
        step(trainer, batch)
    values = [float(value.detach()) for value in fooled]
    assert values[-1] < values[0], values


@pytest.mark.parametrize("name", GANS)
def test_neither_net_learns_in_the_others_descent(name):
    trainer, _ = trainer_of(name)
    model, d, usual = trainer.networks["model"], critic(trainer), trainer.adversary.learn
    before, seen = weights(d), {}

    def learn(*words):
        seen["d"] = same(weights(d), before) and all(p.grad is None for p in d.parameters())
        made = (
            weights(model),
            [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        )
        answer = usual(*words)
        grads = [p.grad for p in model.parameters()]
        seen["model"] = same(weights(model), made[0]) and all(
            (a is None and b is None) or torch.equal(a, b) for a, b in zip(made[1], grads)
        )
        return answer

    trainer.adversary.learn = learn
    asked = [p.requires_grad for p in d.parameters()]
    step(trainer, batch_of(trainer.settings))
    assert seen == {"d": True, "model": True}
    assert [p.requires_grad for p in d.parameters()] == asked
    assert not same(weights(d), before)


def test_what_was_frozen_stays_frozen():
    d = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 1))
    d[1].requires_grad_(False)
    adversary = Adversary(d, torch.optim.SGD(d[2].parameters(), 0.1))
    images = torch.rand(2, 3, 2, 2, requires_grad=True)
    with adversary.resting():
        assert not any(p.requires_grad for p in d.parameters())
    assert [p.requires_grad for p in d.parameters()] == [False, False, True, True]
    adversary.fool(images).backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in d.parameters())


@pytest.mark.parametrize(
    ("name", "term", "loss"),
    [
        ("psfr_gan", "pixel", F.l1_loss),  # Eq. 4 as the code has it
        ("rdfr", "pixel", F.l1_loss),  # Eq. 10
        ("dl_st", "pixel", F.mse_loss),  # Eq. 8
        ("fpn", "image_l1", F.l1_loss),
    ],
)
def test_pixel_losses_are_the_papers(name, term, loss):
    trainer, _ = trainer_of(name)
    batch = batch_of(trainer.settings)
    with calls_of(trainer.networks["model"]) as calls:
        losses = step(trainer, batch)
    [(_, output)] = calls
    image = output[1] if name == "fpn" else output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(losses[term], loss(image, batch["truth"] * 2 - 1))
    if name == "fpn":
        torch.testing.assert_close(
            losses["cross_entropy"], F.cross_entropy(output[0], batch["labels"])
        )


TOTALS = {
    "psfr_gan": {"pixel": "pixel_weight", "matching": "matching_weight",
                 "adversarial": "adversarial_weight", "style": "style_weight"},
    "rdfr": {"pixel": "pixel_weight", "perceptual": "perceptual_weight",
             "adversarial": "adversarial_weight"},
    "dl_st": {"pixel": "pixel_weight", "perceptual": "perceptual_weight",
              "adversarial": "adversarial_weight"},
    "dl_st_degradation": {"pixel": "pixel_weight", "perceptual": "perceptual_weight",
                          "adversarial": "adversarial_weight"},
    "stylegan2_encoder": {"pixel": "pixel_weight", "delta": "delta_weight",
                          "perceptual": "perceptual_weight", "latent": "latent_weight"},
    "fpn": {"cross_entropy": None, "image_l1": "image_weight"},
}  # fmt: skip


@pytest.mark.parametrize("name", TOTALS)
def test_what_descends_is_the_weighted_sum_of_the_terms(name, monkeypatch):
    given = {key: 0.5 + place for place, key in enumerate(filter(None, TOTALS[name].values()))}
    trainer, _ = trainer_of(name)
    # a stage of training replaces the settings: weights are read in every step
    trainer.settings = trainer.settings.model_copy(update=given)
    module, kept = load_method(name), []
    monkeypatch.setattr(
        module, "descend", lambda optimizer, loss: kept.append((optimizer, float(loss.detach())))
    )
    losses = step(trainer, batch_of(trainer.settings))
    values = {key: float(losses[key].detach()) for key in TOTALS[name]}
    total = sum(given.get(weight, 1.0) * values[key] for key, weight in TOTALS[name].items())
    assert kept[0][0] is trainer.optimizers["model"]
    assert kept[0][1] == pytest.approx(total, rel=1e-5)
    assert len(kept) == 1  # the discriminator's is the adversary's


def test_rdfr_pays_for_commitment_once_codes_are_there(monkeypatch):
    trainer, _ = trainer_of("rdfr")
    step(trainer, batch_of(trainer.settings))  # codes are taken from features
    trainer.settings = trainer.settings.model_copy(update={"commitment_weight": 7.0})
    kept = []
    monkeypatch.setattr(rdfr, "descend", lambda _, loss: kept.append(float(loss.detach())))
    losses = {k: float(v.detach()) for k, v in step(trainer, batch_of(trainer.settings, 4)).items()}
    s = trainer.settings
    total = s.pixel_weight * losses["pixel"] + s.perceptual_weight * losses["perceptual"]
    total += s.adversarial_weight * losses["adversarial"] + 7 * losses["commitment"]
    assert losses["commitment"] > 0 and kept[0] == pytest.approx(total, rel=1e-5)


# ---- lazy terms


def test_lazy_terms_are_multiplied_by_their_period(monkeypatch):
    """D(x) = a sum(x): R1 = 12 a^2, and gradient descent on gamma / 2 * 4 * R1 knows the rest."""
    a = nn.Parameter(torch.tensor(2.0))
    d = nn.Module()
    d.a, d.forward = a, lambda x: a * x.sum((1, 2, 3))
    adversary = Adversary(d, torch.optim.SGD([a], lr=0.01))
    real = torch.rand(5, 3, 2, 2)
    found = [adversary.penalise(real, 0.5, 4, step) for step in range(4)]
    assert [list(part) for part in found] == [["r1"], [], [], []]
    assert found[0]["r1"].item() == pytest.approx(48)
    assert a.item() == pytest.approx(2 - 0.01 * 0.5 / 2 * 4 * 12 * 2 * 2)
    assert adversary.penalise(real, 0.0, 4, 0) == {}
    # through the augmentation: of half of the image the gradient is half as large
    adversary = Adversary(d, torch.optim.SGD([a], lr=0.0), augment=lambda x: x / 2)
    assert adversary.penalise(real, 1.0, 1, 0)["r1"].item() == pytest.approx(12 * a.item() ** 2 / 4)

    trainer, _ = trainer_of("stylegan2", path_weight=3.0, path_every=4)
    kept = []
    monkeypatch.setattr(generator, "descend", lambda _, loss: kept.append(float(loss.detach())))
    torch.manual_seed(0)
    penalty = float(trainer.path_step(2)["path_penalty"].detach())
    assert kept == [pytest.approx(3.0 * 4 * penalty)] and penalty > 0


@pytest.mark.parametrize("name", [name for name in GANS if name != "psfr_gan"])
def test_r1_is_taken_of_real_faces_with_the_settings_gamma(name):
    trainer, _ = trainer_of(name)
    trainer.settings = trainer.settings.model_copy(update={"r1_gamma_weight": 3.0, "r1_every": 4})
    seen = []
    trainer.adversary.penalise = lambda *words: seen.append(words) or {}
    batch = {**batch_of(trainer.settings), "step": 8}
    step(trainer, batch)
    [(real, gamma, every, place)] = seen
    assert torch.equal(real, real_of(name, batch)) and (gamma, every, place) == (3.0, 4, 8)


def test_stylegan2_mixes_styles_at_its_probability():
    trainer, _ = trainer_of("stylegan2")
    for mixing, mixed in ((1.0, 64), (0.0, 0)):
        trainer.settings = trainer.settings.model_copy(update={"mixing": mixing})
        torch.manual_seed(0)
        ws = trainer._ws(64)
        assert sum(not torch.equal(w[0], w[-1]) for w in ws) == mixed
    trainer.settings = trainer.settings.model_copy(update={"mixing": 0.9})
    shares = [sum(not torch.equal(w[0], w[-1]) for w in trainer._ws(200)) / 200 for _ in range(3)]
    assert all(0.8 < share < 1 for share in shares)


def test_stylegan2_tracks_the_mean_latent_where_it_learns():
    trainer, _ = trainer_of("stylegan2")
    mapping = trainer.networks["model"].mapping
    before = mapping.w_avg.clone()
    trainer.discriminator_step(torch.zeros(4, 3, trainer.settings.size, trainer.settings.size))
    assert torch.equal(mapping.w_avg, before)
    trainer.generator_step(4)
    assert not torch.equal(mapping.w_avg, before)
    torch.manual_seed(0)
    first = trainer.path_step(2)["path_length"]
    torch.testing.assert_close(trainer.path_mean, first)
    assert trainer.path_mean > 0


def test_the_encoder_releases_a_row_at_a_time():
    trainer, _ = trainer_of("stylegan2_encoder", release_images=8)
    for seen, released in (
        (0, 1),
        (7, 1),
        (8, 2),
        (16, 3),
        (10_000, trainer.networks["model"].rows),
    ):
        step(trainer, batch_of(trainer.settings, seen))
        assert int(trainer.networks["model"].released) == released


def test_degradation_waits_for_its_discriminator():
    trainer, _ = trainer_of("dl_st_degradation", adversarial_from=8)
    model, d = trainer.networks["model"], critic(trainer)
    green, learnt = weights(model), weights(d)
    step(trainer, batch_of(trainer.settings, 4))
    assert same(weights(model), green) and not same(weights(d), learnt)
    step(trainer, batch_of(trainer.settings, 8))
    assert not same(weights(model), green)


# ---- half precision


def test_codes_are_compared_in_full_precision():
    """Two codes that bfloat16 cannot tell apart."""
    book = rdfr.Codebook(2, 4, 0.9)
    with torch.no_grad():
        book.codes.copy_(torch.tensor([[100.0] * 4, [100.2] * 4]))
    p = torch.full((1, 4, 2, 2), 100.2)
    assert p.bfloat16()[0, 0, 0, 0] == book.codes[0].bfloat16()[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert (book.nearest(p) == 1).all()
        distance = book.update(p)
    assert distance == 0


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_in_bfloat16_stay_near_those_in_float32(name):
    losses = {}
    for half in (False, True):
        trainer, _ = trainer_of(name)
        before = [weights(network) for network in trainer.networks.values()]
        found = []
        for seen in (0, 4):
            batch = batch_of(trainer.settings, seen)
            with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
                found.append(step(trainer, batch))
        after = [weights(network) for network in trainer.networks.values()]
        assert all(not same(a, b) for a, b in zip(before, after))
        assert all(torch.isfinite(x).all() for part in after for x in part)
        losses[half] = found
    for part in losses[True]:
        assert all(torch.isfinite(value.detach()).all() for value in part.values())
    for key, value in losses[False][0].items():
        if key.startswith(("used", "perplexity", "accuracy", "sign")):
            continue  # counts
        near = float(losses[True][0][key].detach())
        assert near == pytest.approx(float(value.detach()), rel=0.15, abs=0.02), key


def test_a_descent_is_seen_within_the_autocast_that_it_happened_in():
    """With autocast's cache a second pass goes on with weights cast before the descent."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    for cache in (True, False):
        conv = nn.Conv2d(3, 8, 3)
        optimizer = torch.optim.SGD(conv.parameters(), lr=1.0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            before = conv(images)
            descend(optimizer, before.float().square().mean())
            inside = conv(images)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            outside = conv(images)
        assert torch.equal(inside, outside) != cache
        assert torch.equal(inside, before) == cache


def test_the_loop_trains_without_the_cache(monkeypatch, tmp_path):
    from test_train import Toy, toy_plan

    from frcore.train import loop

    words, usual = [], torch.autocast

    def autocast(*args, **more):
        words.append((args, more))
        return usual(*args, **more)

    monkeypatch.setattr(torch, "autocast", autocast)
    images = torch.rand(4, 3, 8, 8)
    batch = {"truth": images, "degraded": images}
    faces = SimpleNamespace(batch=lambda *_: dict(batch))
    plan = toy_plan(tmp_path, images=8, precision="bfloat16")
    loop.train(Toy(), faces, plan, torch.device("cpu"), log=lambda _: None)
    assert len(words) == 2
    assert all(more == {"enabled": True, "cache_enabled": False} for _, more in words)


# ---- a plain net


def test_supervised_descends_on_its_loss_alone():
    model = nn.Conv2d(3, 3, 1)
    trainer = supervised(F.mse_loss)(model, SimpleNamespace(learning_rate=0.01), {})
    batch = {"truth": torch.rand(2, 3, 4, 4), "degraded": torch.rand(2, 3, 4, 4)}
    with calls_of(model) as calls:
        losses = trainer.step(batch)
    [(given, output)] = calls
    assert given[0] is batch["degraded"] and list(losses) == ["mse_loss"]
    torch.testing.assert_close(losses["mse_loss"], F.mse_loss(output, batch["truth"]))
    again = [float(trainer.step(batch)["mse_loss"].detach()) for _ in range(20)]
    assert again[-1] < again[0]
    assert trainer.optimizers["model"].param_groups[0]["lr"] == 0.01


def test_nothing_descends_where_everything_rests():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.requires_grad_(False)
    before = weights(model)
    descend(optimizer, model(torch.ones(1, 2)).sum())
    assert same(weights(model), before)


def test_adversaries_of_other_kinds_are_a_line_each(monkeypatch):
    monkeypatch.setitem(
        adversaries.KINDS, "toy", (lambda r, f: (f - r).mean(), lambda f: -f.mean())
    )
    d = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    adversary = Adversary(d, torch.optim.SGD(d.parameters(), 0.1), "toy")
    real, fake = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)
    loss, scores = adversary.learn(real, fake)
    assert scores.shape == (2, 1) and adversary.learn(real, fake)[0] < loss
    assert KINDS["logistic"] == (logistic_d, logistic_g)


# ---- the papers' numbers, as one table: (where, setting, value, source)

PAPERS = [
    # arXiv 2009.08709 section 3.4 and 4.1; style weight and d rate of the authors' code (sheet 1.6)
    (psfr_gan, "pixel_weight", 10.0), (psfr_gan, "matching_weight", 10.0),
    (psfr_gan, "adversarial_weight", 1.0), (psfr_gan, "style_weight", 1000.0),
    (psfr_gan, "g_learning_rate", 1e-4), (psfr_gan, "d_learning_rate", 4e-4),
    (psfr_gan, "betas", (0.5, 0.999)),
    # section 3.3 and the sheet: the parser
    (fpn, "learning_rate", 2e-4), (fpn, "betas", (0.9, 0.999)),
    (fpn, "image_weight", 1.0),
    # RDFR: Eq. 7, 8; what the paper leaves open is the sheet's R-10 and R-12
    (rdfr, "adversarial_weight", 0.1), (rdfr, "pixel_weight", 1.0),
    (rdfr, "perceptual_weight", 1.0), (rdfr, "commitment_weight", 1.0),
    (rdfr, "spread_weight", 0.0), (rdfr, "codes", 1024), (rdfr, "code_decay", 0.99),
    (rdfr, "learning_rate", 2e-3), (rdfr, "betas", (0.0, 0.99)), (rdfr, "r1_every", 16),
    # DL-ST: Eq. 1 to 4 of degradation learning
    (degradation, "pixel_weight", 1.0), (degradation, "perceptual_weight", 0.02),
    (degradation, "adversarial_weight", 0.01), (degradation, "learning_rate", 1e-4),
    (degradation, "betas", (0.0, 0.9)), (degradation, "r1_every", 16),
    # DL-ST: Eq. 8 of the Skip-Transformer
    (dl_st, "pixel_weight", 1.0), (dl_st, "perceptual_weight", 0.02),
    (dl_st, "adversarial_weight", 0.02), (dl_st, "learning_rate", 5e-5),
    (dl_st, "decoder_rate", 0.1), (dl_st, "betas", (0.5, 0.99)), (dl_st, "r1_every", 16),
    # StyleGAN2, configuration F
    (generator, "learning_rate", 2e-3), (generator, "betas", (0.0, 0.99)),
    (generator, "r1_gamma_weight", 10.0), (generator, "r1_every", 16),
    (generator, "path_weight", 2.0), (generator, "path_every", 4), (generator, "path_shrink", 2),
    (generator, "mixing", 0.9),
    # pSp and e4e
    (encoder, "pixel_weight", 1.0), (encoder, "perceptual_weight", 0.8),
    (encoder, "delta_weight", 2e-4),
]  # fmt: skip


@pytest.mark.parametrize("module", [psfr_gan, rdfr, dl_st, degradation])
def test_default_features_are_vggs_as_far_as_packages_ship_it(module):
    """The papers say VGG; of VGG16 there is a package."""
    assert module.Settings().perceptual == "vgg16"
    assert set(module.TAPS["vgg16"]) <= set(perceptual.tap_names("vgg16"))


def test_shipped_entries_name_the_net_that_they_were_trained_with():
    for name, entry in read_yaml(CATALOGUE / "models.yaml").items():
        if entry["method"] in ("psfr_gan", "rdfr", "dl_st", "dl_st_degradation"):
            assert entry["settings"]["perceptual"] == "mobilenet_v2", name


@pytest.mark.parametrize(("module", "setting", "value"), PAPERS)
def test_defaults_are_the_papers(module, setting, value):
    assert getattr(module.Settings(), setting) == value


def test_published_sizes_and_taps_are_the_papers():
    paper = {
        psfr_gan: {"size": 512, "labels": 19, "start": 16, "perceptual": "vgg19", "d_depth": 4,
                   "channels": (1024, 512, 256, 128, 64, 32), "discriminators": 3},
        rdfr: {"size": 512, "skips": (8, 16, 32), "perceptual": "vgg19", "r1_gamma_weight": 10.0},
        degradation: {"size": 1024, "perceptual": "vgg19", "frozen_blocks": 4},
        generator: {"size": 1024, "w_dim": 512, "mapping_layers": 8},
    }  # fmt: skip
    for module, values in paper.items():
        settings = load_settings(module.Settings, module.PAPER)
        assert {key: getattr(settings, key) for key in values} == values
    # after the ReLUs that work in place in the authors' code
    assert psfr_gan.TAPS["vgg19"] == ("relu3_4", "relu4_4", "conv5_4")
    assert psfr_gan.TAPS["vgg16"] == ("relu3_3", "relu4_3", "conv5_3")
    assert psfr_gan.TAPS["mobilenet_v2"] == ("features3", "features6", "features13")
    assert dl_st.TAPS == {"vgg16": ("conv4_3",), "mobilenet_v2": ("features6",)}
    assert degradation.TAPS == {
        "vgg19": ("relu3_4",),
        "vgg16": ("relu3_3",),
        "mobilenet_v2": ("features3",),
    }
    gfpgan = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
    assert {
        "vgg19": gfpgan,
        "vgg16": {key.replace("_4", "_3"): weight for key, weight in gfpgan.items()},
        "mobilenet_v2": {f"features{i}": 1.0 for i in (1, 3, 6, 10, 13)},
    } == rdfr.PERCEPTUAL


def test_rates_reach_the_optimizers():
    trainer, _ = trainer_of("psfr_gan", g_learning_rate=3e-4, d_learning_rate=7e-4)
    assert trainer.optimizers["model"].defaults["lr"] == 3e-4
    assert trainer.optimizers["discriminators"].defaults["lr"] == 7e-4
    trainer, _ = trainer_of("dl_st", learning_rate=1e-3, decoder_rate=0.2)
    step(trainer, batch_of(trainer.settings))
    new, decoder = trainer.optimizers["model"].param_groups
    assert decoder["lr"] == pytest.approx(0.2 * new["lr"])
    assert len(decoder["params"]) == len(list(trainer.networks["model"].decoder.parameters()))
    trainer, _ = trainer_of("stylegan2", learning_rate=2e-3, r1_every=16, path_every=4)
    rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.items()}
    assert rates == {
        "model": pytest.approx(0.0016),
        "discriminator": pytest.approx(0.001882, rel=1e-3),
    }
    trainer, _ = trainer_of("rdfr", learning_rate=2e-3, halve_at=(4,))
    step(trainer, batch_of(trainer.settings, 0))
    whole = trainer.optimizers["model"].param_groups[0]["lr"]
    step(trainer, batch_of(trainer.settings, 4))
    assert trainer.optimizers["model"].param_groups[0]["lr"] == pytest.approx(whole / 2)
