"""What a learned degradation did: statistics with known answers, and the files that are left."""

import csv
import math

import numpy as np
import pytest
import torch
from conftest import whole_config
from PIL import Image
from torch.nn import functional as F

from frcore.assess import degradation as learned
from frcore.config import CATALOGUE, Model, load_config
from frcore.degrade.recipes import Recipe
from frcore.io import checkpoint
from frcore.io.assets import catalogue
from frcore.methods import dl_st_degradation as degradation
from frcore.workflow.plan import Plan


def noise(n=8, side=64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (
        (0.5 + 0.1 * torch.randn(n, 1, side, side, generator=rng)).clamp(0, 1).expand(-1, 3, -1, -1)
    )


def test_spectrum_of_a_wave_is_its_frequency():
    x = torch.arange(64, dtype=torch.float64) / 64
    wave = 0.5 + 0.4 * torch.cos(2 * math.pi * 12 * x)
    frequency, power = learned.spectrum(wave.expand(1, 3, 64, 64))
    assert list(frequency) == list(range(1, 33))
    assert frequency[power.argmax()] == 12
    assert power[[i for i in range(32) if abs(i + 1 - 12) > 3]].max() < 1e-4 * power.max()


def test_spectrum_of_noise_is_flat_and_blur_takes_the_fine_part():
    images = noise(32)
    _, power = learned.spectrum(images)
    assert power.max() < 1.5 * power.min()
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
    assert learned.fine_energy(blurred) < 0.1 * learned.fine_energy(images)
    # contrast counts squared, brightness not at all
    weaker = 0.3 + 0.5 * images
    assert learned.fine_energy(weaker) == pytest.approx(learned.fine_energy(images) / 4, rel=1e-5)


def test_layout_ignores_detail_contrast_and_brightness():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(images, size=(64, 64), mode="nearest")
    detail = 0.1 * torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    detail = detail - F.interpolate(F.avg_pool2d(detail, 4), size=(64, 64), mode="nearest")
    assert learned.layout_correlation(images, 0.2 + 0.5 * images + detail) == pytest.approx(
        1, abs=1e-5
    )
    assert learned.layout_correlation(images, 1 - images) == pytest.approx(-1, abs=1e-5)
    assert abs(learned.layout_correlation(images, images.roll(1, 0))) < 0.2


def test_histograms_hold_all_pixels_and_grey_has_no_colour():
    found = learned.statistics(noise(2))
    assert found["luma"].sum() == pytest.approx(1)
    assert found["colour"][0] == pytest.approx(1)
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1.0
    assert learned.statistics(red)["colour"][-1] == pytest.approx(1)


SETTINGS = {**degradation.TINY, "size": 32, "prior": "p", "perceptual_weight": 0.0}


@pytest.fixture
def weights(tmp_path):
    """A degradation model whose green is red, but darker."""
    torch.manual_seed(0)
    model = degradation.build(degradation.Settings(**SETTINGS))
    with torch.no_grad():
        model.green.blocks[-1].to_rgb.bias -= 0.5
    card = {"name": "dl", "method": "dl_st_degradation", "settings": SETTINGS, "size": 32}
    path = tmp_path / "w.safetensors"
    checkpoint.save_weights(path, {"model": model.state_dict()}, card)
    return path


STEPS = [
    {"kind": "down", "factor": [4, 4], "filters": ["area"]},
    {"kind": "up", "filter": "bilinear"},
]


def rows_of(folder):
    with open(folder / "scores.csv", newline="") as opened:
        return {(row["what"], row["metric"]): row for row in csv.DictReader(opened)}


def test_assessment_without_nets_says_so_and_the_rest_is_there(weights, tmp_path):
    recipes = {"x4": Recipe.model_validate({"size": 32, "steps": STEPS})}
    out = tmp_path / "out"
    learned.assess("dl", weights, noise(6, 32), "orl", recipes, {}, out, log=lambda _: None)
    rows = rows_of(out)
    for key in (("learned to real", "fid_mobilenetv2"), ("a pair", "id_dlib")):
        assert rows[key]["value"] == ""
        assert "no weights" in rows[key]["note"]
    energy = {what: float(r["value"]) for (what, m), r in rows.items() if m == "fine_energy"}
    assert set(energy) == {"real", "learned", "x4"}
    assert energy["x4"] < 0.5
    assert energy["learned"] == pytest.approx(1, abs=0.3)
    assert float(rows["a pair", "layout_correlation"]["value"]) > 0.9
    assert all(row["n"] == "6" for row in rows.values() if row["value"])
    for name in ("pairs.png", "degradation.png"):
        assert Image.open(out / name).size[0] > 100
    again = tmp_path / "again"
    learned.assess("dl", weights, noise(6, 32), "orl", recipes, {}, again, log=lambda _: None)
    for name in ("scores.csv", "pairs.png", "degradation.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_assessment_of_the_workflow_reads_the_training_faces_alone(weights, tmp_path, monkeypatch):
    faces = tmp_path / "results" / "faces"
    (faces / "orl" / "0000").mkdir(parents=True)
    rng = np.random.default_rng(0)
    table = ["id,split,shard"]
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            faces / "orl" / "0000" / f"{i}.png"
        )
        table.append(f"{i},{'train' if i < 3 else 'test'},0000")
    (faces / "orl.csv").write_text("\n".join(table) + "\n")
    train = {"datasets": ["orl"], "degradations": ["x4"]}
    entry = Model(method="dl_st_degradation", settings=SETTINGS, train=train)
    recipes = {"x4": Recipe.model_validate({"size": 32, "steps": STEPS})}
    frames = {"orl": {"size": 32, "crop_scale": 0.7, "crop_shift": 0.1}}
    seen = {}
    monkeypatch.setattr(learned, "assess", lambda *words: seen.update(real=words[2], name=words[3]))
    learned.assess_from_faces(
        "dl", weights, entry, recipes, frames, {}, tmp_path / "results", tmp_path / "r",
        tmp_path / "o", 0, "cpu",
    )  # fmt: skip
    assert seen["real"].shape == (3, 3, 32, 32)
    assert seen["name"] == "orl"
    # shrunk by the entry's recipe, as in training
    assert learned.fine_energy(seen["real"]) < 0.3 * learned.fine_energy(torch.rand(3, 3, 32, 32))


def test_plan_of_the_assessment():
    config = load_config(whole_config())
    plan = Plan(config, None, catalogue(), CATALOGUE)
    assert plan.degraders() == ["dl_64"]
    job = plan.assess_degradation("dl_64")
    assert set(job.recipes) == set(config.run.degradations)
    assert set(job.trained_on) == {"small_64"}


@pytest.mark.workflow
def test_assessment_is_asked_for_by_name(snakemake, clone, tmp_path):
    folder = clone(tmp_path / "project")
    target = "results/degradation/dl_64/scores.csv"
    process = snakemake(folder, "--cores", 1, "-n", "--", target)
    assert process.returncode == 0, process.stderr
    assert "assess_degradation" in process.stdout + process.stderr
