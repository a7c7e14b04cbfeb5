"""The trained prior and its encoder: what training promises, sampling, and the assessment."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import whole_config
from PIL import Image

from frcore.assess import prior
from frcore.cli import main
from frcore.config import CATALOGUE, ConfigError, load_config, load_settings
from frcore.faces import build
from frcore.faces.batch import Faces
from frcore.io import checkpoint
from frcore.io.images import read_image, to_float
from frcore.methods import stylegan2 as generator
from frcore.methods import stylegan2_encoder as encoder
from frcore.registry import load_method
from frcore.train import loop, pictures
from frcore.train.data import Sample, TrainingFaces

ROOT = Path(__file__).resolve().parents[1]
PRIOR = CATALOGUE / "weights" / "stylegan2-64.safetensors"
ENCODER = CATALOGUE / "weights" / "stylegan2-64-encoder.safetensors"


def tiny_prior():
    torch.manual_seed(0)
    settings = generator.Settings(**generator.TINY)
    return generator.build(settings).eval().requires_grad_(False), settings


def truth(n=4, side=16):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


# ---- training the prior


def test_lazy_steps_come_at_their_intervals():
    model, settings = tiny_prior()
    settings = settings.model_copy(update={"r1_every": 3, "path_every": 2})
    trainer = generator.make_trainer(model.requires_grad_(True), settings, {})
    found = [trainer.step({"truth": truth(), "step": step}) for step in range(6)]
    assert ["r1" in losses for losses in found] == [True, False, False] * 2
    assert ["path_length" in losses for losses in found] == [True, False] * 3


def test_regularisers_can_be_left_out():
    model, settings = tiny_prior()
    settings = settings.model_copy(update={"r1_gamma_weight": 0.0, "path_weight": 0.0})
    trainer = generator.make_trainer(model.requires_grad_(True), settings, {})
    assert {"r1", "path_length"}.isdisjoint(trainer.step({"truth": truth(), "step": 0}))


def test_mean_path_length_moves_a_hundredth_of_the_way():
    model, settings = tiny_prior()
    trainer = generator.make_trainer(model.requires_grad_(True), settings, {})
    first = float(trainer.path_step(2)["path_length"])
    assert first > 0
    torch.manual_seed(1)
    ws = trainer._ws(2)
    lengths = generator.path_lengths(model.synthesis(ws), ws).mean()
    torch.manual_seed(1)
    second = trainer.path_step(2)["path_length"]
    torch.testing.assert_close(second, first + 0.01 * (lengths.detach() - first))


def test_augmentation_is_part_of_the_state_and_moves():
    model, settings = tiny_prior()
    settings = settings.model_copy(update={"ada_target": -1.5, "ada_images": 32})
    trainer = generator.make_trainer(model.requires_grad_(True), settings, {})
    for step in range(4):  # any sign is above the target: p rises by 16 / 32
        losses = trainer.step({"truth": truth(), "step": step})
    assert float(losses["ada_p"]) == pytest.approx(0.5)
    again = generator.make_trainer(model, settings, {})
    again.load_extra(trainer.extra())
    assert again.ada.p == trainer.ada.p
    assert torch.equal(again.path_mean, trainer.path_mean)


def test_mirroring_flips_half_of_the_faces(monkeypatch):
    model, settings = tiny_prior()
    settings = settings.model_copy(update={"r1_every": 10**9})
    trainer = generator.make_trainer(model.requires_grad_(True), settings, {})
    images, seen = truth(64), []
    monkeypatch.setattr(trainer, "discriminator_step", lambda real: seen.append(real) or {})
    torch.manual_seed(0)
    trainer.step({"truth": images, "step": 1})
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(seen[0], images * 2 - 1)]
    same = [torch.equal(a, b) for a, b in zip(seen[0], images * 2 - 1)]
    assert all(a != b for a, b in zip(flipped, same))
    assert 20 <= sum(flipped) <= 44


def test_average_ramps_up_with_what_was_seen_before(tmp_path):
    """Half-life is ema_ramp x images seen until ema_images is reached; B = 4."""
    faces = TrainingFaces(face_files(tmp_path, 4, 16), 0, [])

    class Steps:
        def __init__(self):
            model = torch.nn.Linear(1, 1, bias=False)
            torch.nn.init.zeros_(model.weight)
            self.networks, self.optimizers = {"model": model}, {}

        def step(self, batch):
            torch.nn.init.constant_(self.networks["model"].weight, 1.0)
            return {"x": torch.zeros(())}

    def average(before, ramp):
        plan = loop.Schedule(8, 4, 1000.0, 8, 8, "float32", 0, tmp_path / f"{before}{ramp}",
                          ema_ramp=ramp, images_before=before)  # fmt: skip
        state = loop.train(Steps(), faces, plan, torch.device("cpu"), log=lambda line: None)
        return float(state["model"]["weight"])

    def expected(*half_lives):
        left = 1.0
        for half_life in half_lives:
            left *= 0.5 ** (4 / half_life)
        return 1 - left

    assert average(0, None) == pytest.approx(expected(0.2, 0.4), rel=1e-4)  # from scratch: RAMP
    assert average(100, None) == pytest.approx(expected(1000, 1000), rel=1e-4)
    assert average(0, 0.5) == pytest.approx(expected(2, 4), rel=1e-4)
    assert average(100, 0.5) == pytest.approx(expected(52, 54), rel=1e-4)
    assert average(10**6, 0.5) == pytest.approx(expected(1000, 1000), rel=1e-4)


def face_files(folder, n, side):
    faces = folder / "faces"
    faces.mkdir(exist_ok=True)
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(faces / f"{i:03d}.png")
    return [Sample(path.stem, path) for path in sorted(faces.glob("*.png"))]


def test_curve_is_the_distance_to_training_faces(tmp_path, resources):
    """Perfect samples have none, others some; both are what metrics.sets says."""
    assets = {"mobilenet_v2": resources("mobilenet_v2") / "mobilenet_v2"}
    assets = {"mobilenet_v2": next(assets["mobilenet_v2"].glob("*.pth"))}
    faces = TrainingFaces(face_files(tmp_path, 8, 16), 0, [])
    settings = generator.Settings(score_samples=8)

    class Perfect:
        @staticmethod
        def sample(model, n, generator):
            return faces.truth(range(n), torch.device("cpu")) * model

    curve = pictures.set_score(Perfect, faces, assets, settings, torch.device("cpu"))
    assert set(curve(1.0)) == {"fid_mobilenetv2"}
    assert curve(1.0)["fid_mobilenetv2"] == pytest.approx(0, abs=1e-2)
    assert curve(0.5)["fid_mobilenetv2"] > 1


# ---- the encoder


def tiny_encoder(**changes):
    net, _ = tiny_prior()
    net.mapping.w_avg.normal_(generator=torch.Generator().manual_seed(5))
    settings = encoder.Settings(**{**encoder.TINY, "perceptual_weight": 0.0, **changes})
    model = encoder.build(settings)
    return net, model, encoder.make_trainer(model, settings, {"prior": net})


def test_encoder_starts_at_the_mean_latent():
    net, model, _ = tiny_encoder()
    images = encoder.restore(model, Faces(truth(2)), {"prior": net})
    mean = net.synthesis(net.to_rows(net.mapping.w_avg[None]), "fixed") / 2 + 0.5
    torch.testing.assert_close(images, mean.clamp(0, 1).expand(2, -1, -1, -1))


def test_rows_are_released_one_by_one():
    _, model, trainer = tiny_encoder(release_images=8)
    for parameter in model.parameters():
        parameter.data += 0.1
    for seen, free in ((0, 0), (8, 1), (16, 2), (10**6, 5)):
        trainer.step({"truth": truth(), "images_seen": seen})
        _, offsets = model.latents(truth(2))
        used = (offsets != 0).any(2).all(0)
        assert not used[0]
        assert int(used.sum()) == free
        assert used[1 : 1 + free].all()


def test_encoder_learns_the_prior_s_faces():
    _, _, trainer = tiny_encoder(sampled=1.0, learning_rate=3e-3)
    torch.manual_seed(0)
    losses = [
        float(trainer.step({"truth": truth(8), "images_seen": 0})["latent"].detach())
        for _ in range(60)
    ]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.parametrize("size", [16, 32, 64, 256, 1024])
def test_encoder_gives_every_row(size):
    settings = encoder.Settings(size=size, w_dim=4, c_base=2 * size, c_max=4, pyramid=2)
    with torch.device("meta"):
        ws = encoder.build(settings)(torch.empty(1, 3, size, size))
    assert ws.shape == (1, encoder.rows_of(size), 4)


def test_encoder_needs_a_prior_that_fits():
    with pytest.raises(ValueError, match="a side of 16 or more, got 8"):
        encoder.build(encoder.Settings(size=8))
    settings = encoder.Settings(**encoder.TINY)
    with pytest.raises(ValueError, match=r"settings\.prior: a trained StyleGAN2"):
        encoder.make_trainer(encoder.build(settings), settings, {})
    net, _ = tiny_prior()
    with pytest.raises(ValueError, match="perceptual_weight needs"):
        encoder.make_trainer(encoder.build(settings), settings, {"prior": net})
    other = settings.model_copy(update={"w_dim": 8})
    with pytest.raises(ValueError, match="16 and 8, expected the prior's 16 and 16"):
        encoder.make_trainer(encoder.build(other), other, {"prior": net, "perceptual": object()})


# ---- configuration


def test_clean_faces_alone_and_generative_models_are_checked():
    data = whole_config()
    data["models"]["stylegan2-64"]["train"]["degradations"] = ["psfr_64"]
    data["models"]["fpn_64"]["train"]["degradations"] = []
    data["run"]["models"] = ["bicubic", "stylegan2-64"]
    with pytest.raises(ConfigError) as error:
        load_config(data)
    assert error.value.mistakes == [
        "run.models: stylegan2-64 makes faces and restores none",
        "models.fpn_64.train.degradations: name one or more",
        "models.stylegan2-64.train.degradations: it sees clean faces alone",
    ]


# ---- samples


def test_samples_are_a_function_of_the_seed_and_truncation():
    net, _ = tiny_prior()
    net.mapping.w_avg.normal_()

    def draw(seed, psi=1.0):
        return generator.sample(net, 3, torch.Generator().manual_seed(seed), psi, batch=2)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    mean = net.synthesis(net.to_rows(net.mapping.w_avg[None]), "fixed") / 2 + 0.5
    torch.testing.assert_close(draw(0, 0.0), mean.clamp(0, 1).expand(3, -1, -1, -1))


def test_sample_command(tmp_path, capsys):
    out = tmp_path / "faces"
    assert main.main(["sample", "--model", str(PRIOR), "-o", str(out), "-n", "12"]) == 0
    files = sorted(out.iterdir())
    assert [path.name for path in files] == [f"{i:06d}.png" for i in range(12)]
    assert Image.open(tmp_path / "faces.png").size == (640, 64)
    first = np.asarray(Image.open(files[0])).astype(int)
    assert main.main(["sample", "--model", str(PRIOR), "-o", str(out)]) != 0
    assert "--overwrite" in capsys.readouterr().err
    words = ["sample", "--model", str(PRIOR), "-o", str(out), "-n", "1", "--overwrite"]
    assert main.main(words) == 0
    assert [path.name for path in out.iterdir()] == ["000000.png"]
    # the same face, up to rounding: some processors round otherwise in a batch of another size
    assert np.abs(np.asarray(Image.open(files[0])) - first).max() <= 1


def test_restoring_with_a_prior_and_sampling_a_restorer_are_refused(tmp_path, capsys):
    words = ["-o", str(tmp_path / "out")]
    assert main.main(["restore", "--model", str(PRIOR), "-i", str(tmp_path), *words]) != 0
    assert "makes faces and restores none" in capsys.readouterr().err
    assert main.main(["sample", "--model", "bicubic", *words]) != 0
    assert "restores faces and makes none" in capsys.readouterr().err


# ---- the shipped weights


@pytest.fixture(scope="module")
def shipped():
    """(prior, encoder) of weights/."""
    nets = []
    for path in (PRIOR, ENCODER):
        networks, card = checkpoint.load_weights(path)
        method = load_method(card["method"])
        model = method.build(load_settings(method.Settings, card["settings"]))
        checkpoint.load_strict(model, networks["model"], path.name)
        nets.append(model.eval().requires_grad_(False))
    return nets


def test_shipped_settings_are_the_catalogue_s():
    models = load_config(ROOT / "config.yaml").models
    for path in (PRIOR, ENCODER):
        card = checkpoint.read_card(path)
        module = load_method(card["method"])
        entry = models[card["name"]]
        assert module.Settings(**entry.settings) == module.Settings(**card["settings"])
        assert json.loads(path.with_suffix(".json").read_text()) == card


def test_shipped_discriminator_tells_real_faces_from_samples(shipped, tmp_path, resources):
    net, _ = shipped
    networks, card = checkpoint.load_weights(PRIOR)
    d = generator.build_discriminator(generator.Settings(**card["settings"]))
    checkpoint.load_strict(d, networks["discriminator"], PRIOR.name)
    dataset = load_config(ROOT / "config.yaml").datasets["digiface"]
    dataset = dataset.model_copy(update={"samples": 48, "shards": 1})
    assets = resources("digiface_generator", "dlib_68")
    build.build_shard(
        "digiface", dataset, 0, assets, 0, tmp_path / "f", tmp_path / "a", tmp_path / "q"
    )
    real = [to_float(read_image(path)) for path in sorted((tmp_path / "f").glob("*.png"))]
    assert len(real) >= 6
    samples = generator.sample(net, 32, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert d(torch.cat(real) * 2 - 1).mean() > d(samples * 2 - 1).mean() + 0.5


def test_faces_are_found_in_shipped_samples(shipped, resources):
    images = generator.sample(shipped[0], 40, torch.Generator().manual_seed(1), 0.7)
    assert prior.detected_share(images, resources("dlib_68")) >= 0.6
    assert prior.detected_share(torch.rand(4, 3, 64, 64), resources("dlib_68")) == 0


def test_late_rows_change_colour_and_early_rows_the_face(shipped):
    """Sheet 1.1.14: replacing rows >= 8 of W+ changes colour and texture, not pose."""
    net, _ = shipped
    z = net.draw(16, torch.Generator().manual_seed(0))
    ws = net.to_rows(net.mapping(z))
    other = ws.roll(1, 0)

    def shape(rows):  # luma without its mean and contrast, coarsely: where light and dark are
        mixed = ws.clone()
        mixed[:, rows] = other[:, rows]
        images = net.synthesis(mixed, "fixed").mean(1, keepdim=True)
        coarse = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
        return torch.nn.functional.normalize(coarse - coarse.mean(1, keepdim=True), dim=1)

    same = shape(slice(0, 0))
    late = (same * shape(slice(8, None))).sum(1).mean()
    early = (same * shape(slice(0, 8))).sum(1).mean()
    assert late > 0.9
    assert early < late - 0.1


def test_encoder_is_nearer_than_the_mean_latent(shipped):
    net, code = shipped
    images = generator.sample(net, 16, torch.Generator().manual_seed(3), 1.0)
    with torch.no_grad():
        found = encoder.restore(code, Faces(images), {"prior": net})
        mean = generator.sample(net, 1, torch.Generator(), 0.0)
    assert (found - images).square().mean() < 0.6 * (mean - images).square().mean()


# ---- the assessment


def test_assessment(tmp_path, resources, monkeypatch):
    root = resources("dlib_68", "mobilenet_v2", "stlpips_vgg", "dlib_resnet")
    monkeypatch.setattr(prior, "DETECTED", 4)
    card = checkpoint.read_card(PRIOR)
    net = load_method(card["method"])
    model = net.build(net.Settings(**card["settings"]))
    faces = generator.sample(model, 14, torch.Generator().manual_seed(0))
    results = tmp_path / "results"
    (results / "faces" / "toy" / "0000").mkdir(parents=True)
    lines = ["id,photo,person,split"]
    for i, pixels in enumerate(prior.to_uint8(faces)):
        Image.fromarray(pixels).save(results / f"faces/toy/0000/{i:02d}.png")
        lines.append(f"{i:02d},{i},{i},{'train' if i < 10 else 'test'}")
    (results / "faces" / "toy.csv").write_text("\n".join(lines) + "\n")
    found = {str(p.stem): p for p in (results / "faces/toy/0000").iterdir()}

    def files(table, folder, split=None, limit=0):
        names = [name for name in sorted(found) if (int(name) < 10) == (split == "train")]
        return [(name, found[name]) for name in names[: limit or None]]

    monkeypatch.setattr(prior, "face_files", files)
    out = tmp_path / "out"
    weights = [PRIOR, ENCODER]
    prior.assess_from_faces(
        "p", weights, ["toy"], results, root, out, (0.7, 0.1), 0, "cpu", held_out=3, steps=3
    )
    with open(out / "scores.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["what"] for row in rows} == {
        "samples",
        *(f"inversion: {start}{more}" for start in ("mean latent", "encoder")
          for more in ("", " + 3 steps")),
    }  # fmt: skip
    by = {(row["what"], row["metric"]): row for row in rows}
    assert by["samples", "fid_inception"]["value"] == ""
    assert by["samples", "fid_inception"]["note"] == "no weights: inception"
    assert by["samples", "fid_mobilenetv2"]["n"] == "10"
    for start in ("mean latent", "encoder"):
        before, after = (f"inversion: {start}", f"inversion: {start} + 3 steps")
        assert by[before, "psnr_rgb"]["n"] == "3"
        assert float(by[after, "psnr_rgb"]["value"]) > float(by[before, "psnr_rgb"]["value"])
    assert Image.open(out / "samples.png").size == (640, 640)
    assert Image.open(out / "inversion_toy.png").size == (3 * 64, 5 * 64)


@pytest.mark.workflow
def test_assessment_can_be_planned(clone, snakemake, tmp_path):
    folder = clone(tmp_path / "project")
    target = "results/prior/stylegan2-64/scores.csv"
    done = snakemake(folder, "--cores", 1, "-n", target)
    assert done.returncode == 0, done.stderr[-3000:]
    text = done.stdout + done.stderr
    assert "assess_prior" in text
    assert "rule train_model" in text
