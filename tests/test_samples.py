"""How far restorations of one face differ: known answers from models that draw one number."""

import csv
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from frcore.assess import samples
from frcore.restore.models import RestoreError, Restorer


def drawing(step: float, settings=None) -> Restorer:
    """Adds one normal number times `step` to a whole face."""

    def restore(model, faces, guide):
        return (faces.images + step * faces.randn(1, 1, 1)).clamp(0, 1)

    card = {"method": "rdfr", "settings": settings or {}, "size": 64, "crop_scale": 0.7}
    module, model = SimpleNamespace(restore=restore), SimpleNamespace(settings=None)
    return Restorer("toy", module, model, torch.device("cpu"), card, "x")


class Colours:
    """Stands in for dlib's net: the descriptor of a frame is its mean colour."""

    def descriptors(self, images, crop_scale, crop_shift):
        assert (crop_scale, crop_shift) == (0.7, 0.1)
        return images.mean((2, 3))


def flat(*colours) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 64, 64).contiguous()


RED, GREEN, DARK = (0.6, 0.2, 0.2), (0.2, 0.6, 0.2), (0.3, 0.1, 0.1)


def table(rows) -> dict:
    return {(row["what"], row["metric"]): row for row in rows}


def test_distance_is_that_of_all_pairs_and_grows_with_the_noise():
    faces, found = flat(RED, GREEN), {}
    for step in (0.02, 0.08):
        rows, images = samples.assess(drawing(step), faces, faces, "ab", "ab", {}, draws=4)
        assert images.shape == (4, 2, 64, 64, 3) and images.dtype == np.uint8
        wide = images.astype(float)
        pairs = [np.sqrt(((wide[i] - wide[j]) ** 2).mean((1, 2, 3))) for i, j in
                 combinations(range(4), 2)]  # fmt: skip
        row = table(rows)["between draws", "rms_255"]
        assert row["value"] == pytest.approx(np.mean(pairs)) and row["n"] == 2
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        found[step] = row["value"]
    assert found[0.08] > 2 * found[0.02] > 1


def test_without_noise_the_face_is_what_the_model_makes_of_zero():
    faces = flat(RED, GREEN)
    rows, _ = samples.assess(drawing(0.05), faces, faces, "ab", "ab", {}, draws=2)
    rows = table(rows)
    assert rows["own truth, no noise", "psnr_rgb"]["value"] == float("inf")
    assert np.isfinite(rows["own truth", "psnr_rgb"]["value"])
    assert "std over draws" in rows["own truth", "psnr_rgb"]["note"]


def test_faces_are_compared_with_the_next_one_of_another_person():
    truth = flat(RED, DARK, GREEN)  # two of one person, and another
    rows, _ = samples.assess(
        drawing(0.0), truth, truth, "abc", ["p", "p", "q"], {"dlib_resnet": Colours()}, draws=2
    )
    rows = table(rows)
    cosine = np.dot(RED, GREEN) / np.dot(RED, RED)
    assert rows["own truth", "id_dlib"]["value"] == pytest.approx(1)
    assert rows["another person", "id_dlib"]["value"] == pytest.approx(cosine, abs=0.01)
    assert rows["another person", "id_dlib"]["n"] == 3
    assert rows["own truth above another person", "id_dlib_share"]["value"] == 1
    # restored as the wrong person
    rows, _ = samples.assess(
        drawing(0.0), truth.flip(0), truth, "abc", ["p", "p", "q"], {"dlib_resnet": Colours()}
    )
    assert table(rows)["own truth above another person", "id_dlib_share"]["value"] < 1


def test_what_cannot_be_had_is_empty_and_says_why():
    faces = flat(RED, GREEN)
    rows, _ = samples.assess(
        drawing(0.1), faces, faces, "ab", "pp", {"dlib_resnet": Colours()}, draws=2
    )
    rows = table(rows)
    assert rows["between draws", "stlpips_vgg"]["value"] is None
    assert "no weights" in rows["between draws", "stlpips_vgg"]["note"]
    assert rows["another person", "id_dlib"]["value"] is None  # there is none
    assert rows["own truth", "id_dlib"]["n"] == 2


def test_refusals():
    faces = flat(RED)
    with pytest.raises(RestoreError, match="draws nothing"):
        samples.assess(drawing(0.1, {"stochastic": False}), faces, faces, "a", "a", {})
    with pytest.raises(RestoreError, match="at least 2"):
        samples.assess(drawing(0.1), faces, faces, "a", "a", {}, draws=1)
    broken = drawing(0.1)
    broken.module.restore = lambda model, faces, guide: faces.images * float("nan")
    with pytest.raises(RestoreError, match="1 of 1 faces: a: "):
        samples.assess(broken, faces, faces, "a", "a", {})


def test_cell_of_the_workflow_leaves_a_table_and_a_picture(tmp_path):
    faces, ids = tmp_path / "faces", [f"{i:02d}" for i in range(8)]
    degraded = tmp_path / "degraded" / "toy" / "mild"
    for folder in (faces / "toy" / "0000", degraded):
        folder.mkdir(parents=True)
        for i, name in enumerate(ids):
            Image.new("RGB", (64, 64), (20 * i, 100, 100)).save(folder / f"{name}.png")
    lines = ["id,photo,person,split,shard", *(f"{name},{name},{name},test,0000" for name in ids)]
    (faces / "toy.csv").write_text("\n".join(lines) + "\n")
    degraded.with_suffix(".csv").write_text("\n".join(["id", *ids]) + "\n")
    out = tmp_path / "out" / "mild.csv"
    samples.assess_cell(drawing(0.1), ("toy", "mild"), tmp_path, {}, out, seed=3, faces=7, draws=3)
    with out.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert tuple(rows[0]) == samples.COLUMNS
    first = [rows[0][k] for k in ("model", "dataset", "degradation", "n")]
    assert first == ["toy", "toy", "mild", "7"]
    before = out.read_bytes(), out.with_suffix(".png").read_bytes()
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 6 * 128 and picture.height > 6 * 128  # six faces
    samples.assess_cell(drawing(0.1), ("toy", "mild"), tmp_path, {}, out, seed=3, faces=7, draws=3)
    assert before == (out.read_bytes(), out.with_suffix(".png").read_bytes())


@pytest.mark.workflow
def test_can_be_planned(clone, snakemake, tmp_path):
    folder = clone(tmp_path / "project")
    target = "results/samples/rdfr_64/digiface/gfpgan_strong_64.csv"
    done = snakemake(folder, target, "--cores", 1, "-n", "--quiet", "rules")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "assess_samples" in done.stdout + done.stderr
    done = snakemake(folder, target.replace("rdfr_64", "psfrgan_64"), "--cores", 1, "-n")
    assert done.returncode != 0  # draws nothing
