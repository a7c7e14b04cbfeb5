"""Acceptance checks of the specification sheet for RDFR."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import load_settings
from frcore.faces.batch import Faces
from frcore.io import checkpoint
from frcore.methods import rdfr as method
from frcore.nets import adversary
from frcore.restore import aligned, models

SCHEDULE = {"images_seen": 0, "step": 0}


def tiny(**changes) -> method.Settings:
    return method.Settings(**{**method.TINY, "perceptual_weight": 0.0, **changes})


def smooth(n: int, seed: int, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def tiny_batch(n: int = 4, side: int = 32) -> dict:
    truth = smooth(n, 0, side)
    degraded = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4, mode="bilinear")
    return {"truth": truth, "degraded": degraded, **SCHEDULE}


def make(guide=None, **changes):
    torch.manual_seed(0)
    settings = tiny(**changes)
    model = method.build(settings)
    trainer = method.make_trainer(model, settings, guide or {})
    for network in trainer.networks.values():
        network.train()
    return trainer, model


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---- sizes


@pytest.mark.parametrize(
    ("changes", "millions", "total"),
    [
        (
            {"size": 512, "skips": (8, 16, 32, 64, 128, 256)},
            (24.0, 22.8, 8.9, 4.26, 2.03),
            59_912_856,
        ),
        ({"size": 512, "skips": (8, 16, 32, 64)}, (24.0, 22.8, 8.6, 2.17, 1.84), 57_532_696),
        ({}, (23.4, 21.7, 5.2, 0.07, 1.05), 50_426_895),
        ({"c_max": 256, "noise_dim": 256}, (6.6, 6.2, 1.3, 0.07, 0.52), 14_239_759),
        (
            {"c_max": 128, "noise_dim": 128, "codes": 512},
            (1.66, 1.56, 0.33, 0.07, 0.13),
            3_615_759,
        ),
    ],
    ids=["512, 6 skips", "512, 4 skips", "64", "64, C 256", "64, C 128"],
)
def test_parameter_budget_is_the_sheets(changes, millions, total):
    with torch.device("meta"):  # counts only
        model = method.build(method.Settings(**changes))
    skips = model.skips.values()
    counts = (
        sum(n_parameters(part) for part in (model.from_rgb, model.downs, model.bottom, model.to_z)),
        n_parameters(model.blocks),
        sum(n_parameters(skip.conv) for skip in skips),
        sum(n_parameters(skip.lgf) for skip in skips),
        sum(skip.codebook.codes.numel() for skip in skips),
    )
    for count, printed in zip(counts, millions):
        digits = len(str(printed).split(".")[1])
        assert round(count / 1e6, digits) == printed
    assert n_parameters(model) == total


def test_gates_have_the_grids_of_the_paper():
    sizes = {side: method.LinearGatedFusion(side).weight.shape[0] for side in (8, 16, 32, 64, 256)}
    assert sizes == {8: 64, 16: 256, 32: 1024, 64: 1024, 256: 1024}  # at most 32 x 32 positions
    assert [method.LinearGatedFusion(side).window for side in (8, 32, 64, 256)] == [1, 1, 2, 8]


def test_published_size_is_built_and_codebooks_fit_their_skips():
    with torch.device("meta"):
        model = method.build(method.Settings(**method.PAPER))
    assert model.sides == [512, 256, 128, 64, 32, 16, 8, 4]
    for side, skip in model.skips.items():
        assert skip.codebook.codes.shape == (1024, 512), side


@pytest.mark.parametrize("skips", [(64,), (4,), (8, 12)])
def test_skips_without_features_are_refused(skips):
    with pytest.raises(ValueError) as caught:
        load_settings(method.Settings, {"skips": skips})
    text = str(caught.value)
    wrong = [side for side in skips if side != 8]
    assert str(wrong) in text and "[32, 16, 8]" in text and "\n" not in text


# ---- linear gated fusion (Eq. 4)


def bilinear_matrix(small: int, large: int) -> torch.Tensor:
    """large x small: linear interpolation between centres of pixels, constant beyond the border."""
    rows = torch.zeros(large, small, dtype=torch.float64)
    for i in range(large):
        x = min(max((i + 0.5) * small / large - 0.5, 0), small - 1)
        low = min(int(x), small - 2)
        rows[i, low], rows[i, low + 1] = 1 - (x - low), x - low
    return rows


def eq4(p, q, weight):
    """Eq. 4 as printed, one image and channel at a time; weight n x n."""
    fused = torch.empty_like(p)
    side = p.shape[-1]
    small = math.isqrt(len(weight))
    r = side // small
    up = bilinear_matrix(small, side) if r > 1 else torch.eye(side, dtype=torch.float64)
    for i in range(p.shape[0]):
        for c in range(p.shape[1]):
            u = (p[i, c] + q[i, c]).reshape(small, r, small, r).mean((1, 3)).flatten()
            s = 1 / (1 + torch.exp(-(weight.T @ u)))
            s = up @ s.view(small, small) @ up.T
            fused[i, c] = s * (p[i, c] + q[i, c]) + (1 - s) * q[i, c]
    return fused


def features(side: int, channels: int = 3, n: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, side, side)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("side", [8, 32, 64, 128])
def test_fusion_is_eq_4(side):
    p, q = features(side, n=1 if side > 8 else 2)
    fusion = method.LinearGatedFusion(side)
    nn.init.normal_(fusion.weight)
    weight = (fusion.weight * fusion.scale).detach().double()
    wanted = eq4(p.double(), q.double(), weight)
    found = fusion(p, q)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)
    assert (found - (q + p / 2)).abs().max() > 0.1  # the gates are not all alike


def test_gates_begin_half_open():
    p, q = features(64)
    assert torch.equal(method.LinearGatedFusion(64)(p, q), q + 0.5 * p)


def test_saturated_gates_shut_and_open():
    p, q = (x.abs() + 0.1 for x in features(64))
    fusion = method.LinearGatedFusion(64)
    nn.init.constant_(fusion.weight, -1e6)
    assert torch.equal(fusion(p, q), q)
    nn.init.constant_(fusion.weight, 1e6)
    assert torch.equal(fusion(p, q), q + p)


def test_gates_mix_positions_and_not_channels():
    p, q = features(8)
    fusion = method.LinearGatedFusion(8)
    nn.init.normal_(fusion.weight)
    before = fusion.gate(p, q)
    p[:, 1, 5, 5] += 1
    moved = (fusion.gate(p, q) - before).abs()
    assert moved[:, [0, 2]].max() == 0
    assert (moved[:, 1] > 0).float().mean() > 0.9


def test_gates_learn_to_shut_out_noise():
    """A skip that is worth adding when it holds a pattern, and worth nothing when it is noise."""
    torch.manual_seed(0)
    fusion = method.LinearGatedFusion(8)
    pattern = torch.linspace(0.5, 2, 64).view(1, 1, 8, 8)
    optimizer = torch.optim.Adam(fusion.parameters(), 0.05)

    def draw():
        clean, noise = pattern + 0.1 * torch.randn(8, 4, 8, 8), torch.randn(8, 4, 8, 8)
        return clean, noise, 0.1 * torch.randn(8, 4, 8, 8)

    for _ in range(100):
        clean, noise, q = draw()
        loss = F.mse_loss(fusion(clean, q), q + clean) + F.mse_loss(fusion(noise, q), q)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean, noise, q = draw()
    assert fusion.gate(noise, q).mean() < fusion.gate(clean, q).mean() - 0.2


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_other_fusions_of_table_3(fusion):
    torch.manual_seed(0)
    skip = method.Skip(tiny(fusion=fusion, quantise=False, stochastic=False), 8)
    p, q = (torch.randn(2, 16, 8, 8) for _ in range(2))
    fused, commitment = skip(p, q, None, True)
    assert commitment is None and fused.shape == q.shape
    if fusion == "add":
        assert torch.equal(fused, q + p)
        assert n_parameters(skip) == 0
    else:
        assert n_parameters(skip) == 32 * 16 + 16


# ---- codebook (Eq. 2, 3)


def a_codebook(codes=16, channels=5, decay=0.9, seed=0):
    torch.manual_seed(seed)
    return method.Codebook(codes, channels, decay)


def test_quantised_vectors_are_the_nearest_rows():
    book, p = a_codebook(), torch.randn(2, 5, 6, 6)
    quantised, commitment = book(p)
    vectors = p.permute(0, 2, 3, 1).reshape(-1, 5)
    wanted = book.codes[torch.cdist(vectors.double(), book.codes.double()).argmin(1)]
    found = quantised.permute(0, 2, 3, 1).reshape(-1, 5)
    assert torch.equal(found, wanted)
    by_hand = ((vectors - wanted) ** 2).sum() / vectors.numel()
    assert commitment.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_gradient_passes_straight_through():
    book = a_codebook()
    p = torch.randn(2, 5, 6, 6, requires_grad=True)
    quantised, _ = book(p)
    leaf = quantised.detach().requires_grad_()
    for x in (quantised, leaf):
        (x.sin() * torch.arange(5.0)[:, None, None]).sum().backward()
    assert torch.equal(p.grad, leaf.grad)


def test_commitment_pulls_features_to_their_codes_and_no_code_anywhere():
    book = a_codebook()
    p = torch.randn(2, 5, 6, 6, requires_grad=True)
    quantised, commitment = book(p)
    commitment.backward()
    torch.testing.assert_close(p.grad, 2 * (p - quantised).detach() / p.numel())
    assert not list(book.parameters())


def test_moving_averages_against_a_slow_loop():
    book, h = a_codebook(codes=6), torch.randn(2, 5, 6, 6)
    vectors = h.permute(0, 2, 3, 1).reshape(-1, 5).double().numpy()
    codes, g = book.codes.double().numpy().copy(), 0.9
    counts, sums = np.ones(6), codes.copy()
    index = [int(((codes - v) ** 2).sum(1).argmin()) for v in vectors]
    for k in range(6):
        mine = vectors[[i == k for i in index]]
        counts[k] = g * counts[k] + (1 - g) * len(mine)
        sums[k] = g * sums[k] + (1 - g) * mine.sum(0)
    smooth_counts = (counts + 1e-5) / (counts.sum() + 6e-5) * counts.sum()
    distance = book.update(h)
    np.testing.assert_allclose(book.codes.numpy(), sums / smooth_counts[:, None], rtol=1e-4)
    np.testing.assert_allclose(book.counts.numpy(), counts, rtol=1e-5)
    wanted = np.mean([(codes[k] - v) ** 2 for k, v in zip(index, vectors)])
    assert distance.item() == pytest.approx(wanted, rel=1e-5)  # with the codes before the update


def test_no_code_explodes_at_the_first_update():
    # counts that start at 0 throw codes without a vector to 1e5 times their size
    book, h = a_codebook(codes=64, channels=8, decay=0.99), torch.randn(1, 8, 2, 2)
    for _ in range(3):
        book.update(h)
        assert book.codes.norm(dim=1).max() < 10 * h.norm(dim=1).max()


def test_starved_codes_start_anew_at_features():
    book = a_codebook(codes=16, channels=4, decay=0.8)
    far = book.codes[1:] + 100  # nothing is near them
    book.codes[1:], book.sums[1:] = far, far.clone()
    h = torch.randn(4, 4, 8, 8)
    for _ in range(40):
        book.update(h)
    vectors = h.permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.cdist(book.codes, vectors).min(1).values.max() < 1.5
    assert len(book.nearest(h).unique()) == 16


def test_codes_start_at_features():
    book, h = a_codebook(), torch.randn(1, 5, 3, 3)  # 9 vectors for 16 codes
    book.start(h)
    vectors = h.permute(0, 2, 3, 1).reshape(-1, 5)
    assert torch.cdist(book.codes, vectors).min(1).values.max() == 0
    assert len(book.nearest(h).unique()) == 9
    assert torch.equal(book.sums, book.codes) and (book.counts == 1).all()


def test_health_by_hand():
    book = a_codebook(codes=8)
    assert book.health() == {}  # nothing was chosen yet
    book.use_true[:4] = 3.0
    book.use_degraded[2] = 5.0
    health = {name: value.item() for name, value in book.health().items()}
    assert health == pytest.approx(
        {"used_true": 0.5, "perplexity_true": 4, "used_degraded": 1 / 8, "perplexity_degraded": 1}
    )


def test_codes_are_used_alike():
    book = a_codebook(codes=64, channels=8)
    torch.manual_seed(1)
    book.start(torch.randn(4, 8, 8, 8))
    for _ in range(60):
        book.update(torch.randn(4, 8, 8, 8))
    assert book.health()["perplexity_true"] > 0.2 * 64


def test_processes_learn_what_one_learns_from_all(monkeypatch):
    """All-reduce stands for another process with the second half of the features."""
    halves, codes = torch.randn(2, 2, 5, 6, 6), torch.randn(6, 5)

    def fresh():
        book = a_codebook(codes=6)
        book.codes.copy_(codes)
        book.sums.copy_(codes)
        return book

    one, all_sums = fresh(), []
    one.update(torch.cat(list(halves)))
    for half in halves:
        vectors = half.permute(0, 2, 3, 1).reshape(-1, 5)
        chosen = F.one_hot(fresh().nearest(half).flatten(), 6).float()
        all_sums.append((chosen.sum(0), chosen.T @ vectors))
    other = iter(all_sums[1])
    monkeypatch.setattr(method, "processes", lambda: 2)
    monkeypatch.setattr(method.dist, "all_reduce", lambda tensor: tensor.add_(next(other)))
    monkeypatch.setattr(method.dist, "broadcast", lambda tensor, source: None)
    two = fresh()
    two.update(halves[0])
    torch.testing.assert_close(two.codes, one.codes)
    torch.testing.assert_close(two.use_true, one.use_true)


def learned_codes(changed: str | None) -> torch.Tensor:
    """Codes after two steps with a frozen encoder; `changed`: truth or degraded is another one."""
    trainer, model = make(warmup_images=0, learning_rate=1e-30)
    batch = tiny_batch()
    if changed:
        batch[changed] = smooth(4, 7)
    for step in range(2):
        torch.manual_seed(step)
        trainer.step({**batch, "step": step})
    return torch.cat([skip.codebook.codes.flatten() for skip in model.skips.values()])


def test_codes_follow_the_truth_and_not_the_degraded():
    assert torch.equal(learned_codes(None), learned_codes("degraded"))
    assert not torch.equal(learned_codes(None), learned_codes("truth"))


# ---- noise (Eq. 6)


def run(model, eps, x=None):
    x = tiny_batch()["degraded"] * 2 - 1 if x is None else x
    with torch.no_grad():
        return model(x, eps)


def test_without_noise_the_result_is_one_bit_for_bit():
    _, model = make()
    model.eval()
    zero = torch.zeros(4, 16)
    assert torch.equal(run(model, zero)[0], run(model, zero)[0])


def test_draws_differ_and_one_vector_reaches_every_block():
    _, model = make()
    model.eval()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 16, generator=generator) for _ in range(2))
    assert (run(model, a)[0] - run(model, b)[0]).abs().mean() > 1e-3
    seen = []
    hooks = [
        module.register_forward_hook(lambda m, given, out: seen.append(given[1]))
        for module in model.modules()
        if isinstance(module, method.StyledConv)
    ]
    _, _, gate = run(model, a)
    assert len(hooks) == len(seen) == 2 * len(model.blocks) - 1 + len(model.skips)
    assert all(torch.equal(eps, gate * a) for eps in seen)


def test_several_draws_at_once_are_those_drawn_one_by_one():
    _, model = make()
    model.eval()
    eps = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    together, loss, gate = run(model, eps)
    single = [run(model, part) for part in eps.split(4)]
    torch.testing.assert_close(together, torch.cat([image for image, _, _ in single]))
    torch.testing.assert_close(loss, single[0][1])
    assert gate.shape == (4, 16)


def test_shut_gate_keeps_noise_out():
    _, model = make()
    model.eval()
    nn.init.zeros_(model.to_z.weight)
    nn.init.constant_(model.to_z.bias, -1e4)
    assert torch.equal(run(model, torch.randn(4, 16))[0], run(model, torch.zeros(4, 16))[0])


def test_restoring_draws_from_its_generator_alone():
    _, model = make()
    model.eval()
    degraded = tiny_batch()["degraded"]

    def restored(seed, images=degraded):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(images))]
        with torch.no_grad():
            return method.restore(model, Faces(images, generators=generators), {})

    assert torch.equal(restored(1), restored(1))
    assert not torch.equal(restored(1), restored(2))
    assert restored(1).min() >= 0 and restored(1).max() <= 1
    with torch.no_grad():
        model.blocks[-1].to_rgb.bias += 9  # far outside: clipped
    assert (restored(1) == 1).all()


def test_without_stochastic_nothing_is_drawn():
    _, model = make(stochastic=False)
    assert model.to_z is None and all(skip.conv is None for skip in model.skips.values())
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with torch.no_grad():
        faces = Faces(tiny_batch()["degraded"], generators=[generator] * 4)
        first = method.restore(model.eval(), faces, {})
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(run(model, torch.randn(4, 16))[0], run(model, torch.zeros(4, 16))[0])
    assert torch.isfinite(first).all()


def test_measured_face_does_not_depend_on_its_batch(tmp_path):
    _, model = make()
    card = {"method": "rdfr", "settings": model.settings.model_dump(), "name": "tiny"}
    checkpoint.save_weights(tmp_path / "w.safetensors", {"model": model.state_dict()}, card)
    restorer = models.load_model(tmp_path / "w.safetensors")
    images, ids = tiny_batch()["degraded"], list("abcd")
    together = aligned.restore_faces(restorer, images, ids, seed=3)
    reverse = aligned.restore_faces(restorer, images.flip(0), ids[::-1], seed=3, batch=3)
    alone = aligned.restore_faces(restorer, images[2:3], ids[2:3], seed=3)
    # up to rounding, which some processors do otherwise in a batch of another size
    torch.testing.assert_close(reverse.flip(0), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, together[2:3], atol=1e-5, rtol=0)
    other = aligned.restore_faces(restorer, images[2:3], ["e"], seed=3)
    assert not torch.allclose(other, alone, atol=1e-3)


# ---- skips


def with_other_features(model, monkeypatch, sides):
    """The output when the features of `sides` are replaced by noise."""
    encode = model.encode

    def changed(x):
        found = encode(x)
        return {s: torch.randn_like(f) if s in sides else f for s, f in found.items()}

    with monkeypatch.context() as patch:
        patch.setattr(model, "encode", changed)
        return run(model, torch.zeros(4, 16))[0]


def test_only_kept_skips_pass_features(monkeypatch):
    for skips in ((), (8,), (8, 16)):
        _, model = make(skips=skips)
        model.eval()
        usual = run(model, torch.zeros(4, 16))[0]
        for side in (8, 16):
            same = torch.equal(with_other_features(model, monkeypatch, [side]), usual)
            assert same == (side not in skips), (skips, side)
        assert not torch.equal(with_other_features(model, monkeypatch, [4]), usual)


def test_model_without_skips_learns_and_restores():
    trainer, model = make(skips=(), warmup_images=0)
    for step in range(2):
        losses = trainer.step({**tiny_batch(), "step": step})
    assert "commitment" not in losses and all(v.isfinite() for v in losses.values())
    with torch.no_grad():
        assert method.restore(model, Faces(torch.rand(1, 3, 32, 32)), {}).shape[1] == 3
    assert method.pictures(model, torch.rand(2, 3, 32, 32)) == {}


# ---- training (Eq. 7 to 10)


class Taps(nn.Module):
    """Stands in for VGG19: its taps are multiples of the image, so the loss is known by hand."""

    def forward(self, images):
        assert images.shape[1:] == (3, 32, 32)
        return {tap: (i + 1) * images for i, tap in enumerate(method.TAPS["vgg19"])}


def watched(trainer, monkeypatch):
    """What the optimizers are given, by name, filled at every step."""
    given, descend = [], method.descend
    names = {id(optimizer): name for name, optimizer in trainer.optimizers.items()}

    def record(optimizer, loss):
        given.append((names[id(optimizer)], loss.detach().clone()))
        descend(optimizer, loss)

    for module in (method, adversary):  # the discriminator's steps are taken there
        monkeypatch.setattr(module, "descend", record)
    return given


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_losses_add_up_with_their_weights(monkeypatch, spread):
    trainer, _ = make(
        {"perceptual": Taps()},
        perceptual="vgg19",
        perceptual_weight=0.5,
        pixel_weight=2.0,
        adversarial_weight=0.25,
        commitment_weight=0.125,
        warmup_images=0,
        r1_every=4,
        r1_gamma_weight=3.0,
        spread_weight=spread,
    )
    trainer.step(tiny_batch())  # takes the codes
    given = watched(trainer, monkeypatch)
    losses = trainer.step({**tiny_batch(), "step": 4})
    found = {name: value.detach() for name, value in losses.items()}
    restorer, discriminator, r1 = given
    assert [name for name, _ in given] == ["model", "discriminator", "discriminator"]
    total = 2 * found["pixel"] + 0.5 * found["perceptual"]
    total = total + 0.25 * found["adversarial"] + 0.125 * found["commitment"]
    if spread:
        total = total - 0.25 * (2 * found["pixel_spread"] + 0.5 * found["perceptual_spread"])
    torch.testing.assert_close(restorer[1], total)
    torch.testing.assert_close(discriminator[1], found["discriminator"])
    torch.testing.assert_close(r1[1], 3.0 / 2 * 4 * found["r1"])
    # images in [0, 1] are half as far apart as in [-1, 1]; GFP-GAN's weights 0.1, 0.1, 1, 1, 1
    taps = 0.1 * 1 + 0.1 * 2 + 3 + 4 + 5
    torch.testing.assert_close(found["perceptual"], taps * found["pixel"] / 2)
    assert found["commitment"] > 0
    assert ("pixel_spread" in found) == bool(spread)


@pytest.mark.parametrize(("spread", "wanted"), [(0.0, (1, 1, 2)), (0.5, (1, 0.75, 1.5)),
                                                (1.0, (1, 0.5, 1))])  # fmt: skip
def test_spread_of_the_truths_is_best_where_spread_is_paid_for(spread, wanted, monkeypatch):
    """Truths of -1 and 1 alike often behind one input: one answer, their own spread, twice that."""
    trainer, model = make(spread_weight=spread, adversarial_weight=0.0, quantise=False)
    n, draws, generator = 4000, 2 if spread else 1, torch.Generator().manual_seed(0)
    trainer.networks["discriminator"] = trainer.adversary.d = Blind()
    given = watched(trainer, monkeypatch)

    def signs(count):
        coins = torch.randint(2, (count, 1, 1, 1), generator=generator) * 2.0 - 1
        return coins.expand(-1, 3, 1, 1)

    batch = {"truth": signs(n) / 2 + 0.5, "degraded": torch.zeros(n, 3, 1, 1), **SCHEDULE}
    for scale, value in zip((0.0, 1.0, 2.0), wanted):
        answers = (scale * signs(draws * n)).requires_grad_()
        monkeypatch.setattr(model, "forward", lambda x, eps, a=answers: (a, a.new_zeros(()), None))
        given.clear()
        trainer.step({**batch, "step": 1})
        assert given[0][1].item() == pytest.approx(value, abs=0.05)


def test_r1_is_taken_every_few_steps_and_not_without_weight():
    trainer, _ = make(r1_every=3)
    has = ["r1" in trainer.step({**tiny_batch(), "step": step}) for step in range(5)]
    assert has == [True, False, False, True, False]
    trainer, _ = make(r1_every=3, r1_gamma_weight=0.0)
    assert "r1" not in trainer.step(tiny_batch())


def test_discriminator_leaves_no_gradient_in_the_restorer():
    trainer, model = make()
    kept = []
    step = trainer.optimizers["model"].step
    trainer.optimizers["model"].step = lambda: (
        kept.extend(p.grad for p in model.parameters()),
        step(),
    )
    trainer.step(tiny_batch())
    after = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    assert len(kept) == len(after)
    for before, now in zip(kept, after):
        assert before is now is None or torch.equal(before, now)
    assert all(p.requires_grad for p in trainer.networks["discriminator"].parameters())


def test_codes_wait_for_the_end_of_the_warm_up():
    trainer, model = make(warmup_images=8)
    first = trainer.step(tiny_batch())
    assert "commitment" not in first and not model.quantising
    assert method.pictures(model, tiny_batch()["truth"]) == {}
    taken = trainer.step({**tiny_batch(), "images_seen": 8, "step": 1})
    assert model.quantising and "perplexity_true_8" in taken and "commitment" not in taken
    used = trainer.step({**tiny_batch(), "images_seen": 12, "step": 2})
    assert used["commitment"] > 0 and "perplexity_degraded_16" in used


def test_trained_weights_have_no_warm_up(monkeypatch):
    trainer, model = make(warmup_images=8)
    model.quantising.fill_(True)  # as in weights that were trained before
    monkeypatch.setattr(method.Codebook, "start", lambda *_: pytest.fail("codes taken anew"))
    losses = trainer.step(tiny_batch())
    assert losses["commitment"] > 0 and "perplexity_true_8" in losses


def test_rates_are_halved_at_their_time():
    trainer, _ = make(halve_at=(100, 200), learning_rate=0.004, r1_every=2)
    rates = []
    for seen in (0, 99, 100, 200, 300):
        trainer.step({**tiny_batch(), "images_seen": seen, "step": 1})
        rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers.values()])
    lazy = 2 / 3  # of the discriminator: its rate is corrected for the lazy penalty
    assert rates == [
        pytest.approx([0.004 * part, 0.004 * lazy * part]) for part in (1, 1, 0.5, 0.25, 0.25)
    ]


def test_missing_perceptual_net_is_refused():
    with pytest.raises(ValueError, match="perceptual"):
        make(perceptual_weight=1.0)


def test_spread_without_noise_is_refused():
    with pytest.raises(ValueError, match="spread_weight needs stochastic"):
        make(spread_weight=0.5, stochastic=False)


class Blind(nn.Module):
    """A discriminator that sees nothing, so that the restorer is trained in half the time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return self.weight * images.mean((1, 2, 3))


def psnr(a, b) -> float:
    return -10 * (a - b).square().mean().log10().item()


def test_overfits_a_few_faces_and_learns_to_ignore_the_noise():
    """Without adversary and codebooks, with all skips; four pairs where the sheet takes 64."""
    trainer, model = make(
        quantise=False,
        adversarial_weight=0.0,
        r1_gamma_weight=0.0,
        c_base=512,
        c_max=32,
        learning_rate=0.01,
        halve_at=(1000, 1250),
        betas=(0.9, 0.99),
    )
    trainer.networks["discriminator"] = trainer.adversary.d = Blind()
    batch, gates = tiny_batch(), []
    for step in range(380):
        torch.manual_seed(step)
        seen = step * len(batch["truth"])
        gates.append(trainer.step({**batch, "step": step, "images_seen": seen})["gate"].item())
    with torch.no_grad():
        restored = method.restore(model.eval(), Faces(batch["degraded"]), {})
    assert psnr(batch["degraded"], batch["truth"]) < 20
    assert psnr(restored, batch["truth"]) > 35  # 36.2 to 36.6 with several seeds
    # there is one truth for each face, so noise is of no use
    assert gates[0] == pytest.approx(0.5, abs=0.1) and gates[-1] < 0.2


def test_discriminator_alone_tells_a_frozen_restorer(monkeypatch):
    trainer, model = make(learning_rate=0.005, r1_every=8, c_base=512)
    descend, d = method.descend, trainer.networks["discriminator"]
    frozen = trainer.optimizers["model"]
    monkeypatch.setattr(method, "descend", lambda o, loss: o is frozen or descend(o, loss))
    before = [p.clone() for p in model.parameters()]
    for step in range(50):
        torch.manual_seed(step)
        truth = smooth(8, step)
        degraded = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4, mode="bilinear")
        trainer.step({"truth": truth, "degraded": degraded, "images_seen": 0, "step": step})
    truth = smooth(64, 1000)  # never seen
    degraded = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4, mode="bilinear")
    with torch.no_grad():
        fake = model(degraded * 2 - 1, torch.randn(64, 16))[0]
        correct = torch.cat([d(truth * 2 - 1) > 0, d(fake) < 0])
    assert correct.float().mean() > 0.95
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


# ---- pictures of the codes


def test_pictures_show_the_mean_patch_of_each_code(monkeypatch):
    _, model = make(codes=3)
    model.quantising.fill_(True)
    # code 2 where the image is bright, code 0 in the rest, code 1 never
    chosen = lambda self, p: torch.where(p.mean(1) > 0, 2, 0)  # noqa: E731
    monkeypatch.setattr(method.Codebook, "nearest", chosen)
    monkeypatch.setattr(
        model,
        "encode",
        lambda x: {s: F.avg_pool2d(x, 32 // s).expand(-1, 3, -1, -1) for s in (8, 16)},
    )
    truth = torch.full((4, 3, 32, 32), 0.2)
    truth[:, :, :8] = 0.9
    found = method.pictures(model, truth)
    assert set(found) == {"codes_8", "codes_16"}
    sheet = found["codes_8"]
    assert sheet.shape == (1, 3, 12, 12)  # 2 x 2 tiles of 4 px with a line around each
    tiles = [sheet[0, :, y : y + 4, x : x + 4] for y in (1, 7) for x in (1, 7)]
    for tile, value in zip(tiles, (0.2, 0.9, 0, 0)):  # most used first
        torch.testing.assert_close(tile, torch.full_like(tile, value))
