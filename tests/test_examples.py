"""Methods of every kind, each one file of a user's folder: what the contract covers.

tests/examples/methods holds them: a filter, a net trained from pairs, a search for every face, a
sampler of many steps, a net with sides of its own, two sets in stages, a fit.
"""

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import whole_config
from PIL import Image
from torch import nn

from frcore.config import ConfigError, Model, load_config
from frcore.degrade.recipes import Recipe
from frcore.faces.batch import Faces
from frcore.frozen import guide
from frcore.io import checkpoint
from frcore.io.assets import present
from frcore.io.images import write_image
from frcore.registry import METHODS, add_methods_folder, load_method, settings_fields
from frcore.restore.aligned import restore_faces, restore_folder
from frcore.restore.models import RestoreError, assemble, load_entry, load_model
from frcore.train import data, loop
from frcore.train import entry as training

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "examples" / "methods"
FRAME = {"size": 64, "crop_scale": 1.0, "crop_shift": 0.1}
X4 = Recipe.model_validate(
    {
        "size": 64,
        "steps": [
            {"kind": "down", "factor": [4, 4], "filters": ["area"]},
            {"kind": "up", "filter": "bicubic"},
        ],
    }
)
OWN = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(autouse=True, scope="module")
def own_methods():
    """The folder's methods, for the tests of this file alone."""
    before = dict(METHODS)
    add_methods_folder(FOLDER)
    yield
    METHODS.clear()
    METHODS.update(before)


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> list[data.Sample]:
    """Twelve coloured blobs of six people, 64 px."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    samples = []
    for i in range(12):
        coarse = rng.integers(40, 216, (6, 6, 3), dtype=np.uint8)
        path = folder / f"{i:02d}.png"
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
        samples.append(data.Sample(f"{i:02d}", path, person=f"p{i // 2}"))
    return samples


def entry_of(method: str, settings=None, **train_settings) -> Model:
    more = {"ema_images": 0, "save_images": 8, "sample_images": 1000, "images": 32, "batch": 4}
    if METHODS[method].data in ("paired", "two_sets"):
        more["degradations"] = ["x4"]
    if METHODS[method].data == "two_sets":
        more["low_quality"] = ["bad"]
    return Model(
        method=method,
        init="scratch",
        seed=1,
        settings={**load_method(method).TINY, **(settings or {})},
        train={"datasets": ["good"], **more, **train_settings},
    )


def run(out: Path, entry: Model, faces, lines=None, **more) -> Path:
    good, bad = faces, []
    if entry.train.low_quality:
        good, bad = data.disjoint(faces, faces, 0)
    training.train_model(
        name="mine",
        entry=entry,
        samples={"good": good},
        recipes={"x4": X4},
        helpers={},
        assets={},
        out=out,
        state=out / "state",
        start=None,
        device=torch.device("cpu"),
        card={"crop_scale": 1.0, "crop_shift": 0.1},
        log=print if lines is None else lines.append,
        low_quality={"bad": bad} if bad else None,
        **more,
    )
    return out


def restorer_of(out: Path | None, entry: Model, recipe=None):
    weights = {"mine": out / "weights.safetensors"} if out else {}
    return load_entry("mine", entry, weights, FRAME, {}, "cpu", recipe)


def images_of(faces) -> torch.Tensor:
    stacked = np.stack([np.asarray(Image.open(sample.image)) for sample in faces])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def degraded(faces) -> torch.Tensor:
    small = nn.functional.avg_pool2d(images_of(faces), 4)
    return nn.functional.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)


def psnr(a, b) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


# ---- heads


def test_what_a_file_exports_says_what_it_is():
    kinds = {name: METHODS[name] for name in OWN if name in METHODS}
    assert set(kinds) == set(OWN)
    trained = {name for name, row in kinds.items() if row.trained}
    assert trained == {"one_conv", "sampler", "upscaler", "two_qualities", "mean_face"}
    assert not any(row.generative for row in kinds.values())
    assert kinds["two_qualities"].data == "two_sets" and kinds["median"].data == "none"
    assert kinds["with_reference"].needs_reference and not kinds["searcher"].needs_reference
    # Settings that are imported from the file beside it are known to the graph
    path = str(FOLDER / "with_reference.py")
    assert settings_fields(path) == settings_fields(str(FOLDER / "searcher.py"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("METHOD = {'title': str(1)}\n", "METHOD must be a literal"),
        ("METHOD = {'titel': 'x'}\n", "unknown key 'titel' (did you mean 'title'?)"),
        ("METHOD = {'title': 'x'}\n", "a method exports Settings, build, restore too"),
        ("METHOD = {'title': 'x', 'data': 'pears'}\n", "data must be one of paired"),
        ("def f(:\n", "invalid syntax"),
    ],
)
def test_a_bad_head_is_one_line_with_file_and_place(tmp_path, text, words):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ValueError) as caught:
        add_methods_folder(tmp_path)
    assert "bad.py" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_taken_is_refused(tmp_path):
    (tmp_path / "rdfr.py").write_text((FOLDER / "median.py").read_text())
    with pytest.raises(
        ValueError, match=r"there is a method 'rdfr' already: frcore\.methods\.rdfr"
    ):
        add_methods_folder(tmp_path)


def test_folders_come_from_the_configuration(tmp_path):
    base = whole_config()
    mine = {"models": {**base["models"], "mine": {"method": "one_konv"}}}
    with pytest.raises(ConfigError, match="did you mean 'one_conv'"):
        load_config({**base, **mine, "methods": [str(FOLDER)]})
    with pytest.raises(ConfigError, match="methods: no folder nowhere"):
        load_config({**base, "methods": ["nowhere"]})


def test_build_must_give_a_module_and_it_has_its_settings(tmp_path):
    text = (FOLDER / "median.py").read_text().replace("return Median(settings)", "return None")
    (tmp_path / "no_module.py").write_text(text)
    add_methods_folder(tmp_path)
    module = load_method("no_module")
    with pytest.raises(TypeError, match="build gave NoneType, expected nn.Module"):
        guide.build(module, module.Settings())
    median = load_method("median")
    assert guide.build(median, median.Settings(side_px=5)).settings.side_px == 5


# ---- a filter, and a trained net


def test_a_filter_restores_in_every_way_to_call_it(faces):
    restorer = restorer_of(None, Model(method="median", settings={"side_px": 3}))
    noisy = images_of(faces[:3]).clone()
    noisy[:, :, ::7, ::7] = 1.0
    restored = restore_faces(restorer, noisy, ["a", "b", "c"], batch=2)
    assert psnr(restored, images_of(faces[:3])) > psnr(noisy, images_of(faces[:3])) + 6
    wide = restorer_of(None, Model(method="median", settings={"side_px": 5}))
    assert not torch.equal(restore_faces(wide, noisy, ["a", "b", "c"]), restored)


def test_one_convolution_learns_and_restores_better_than_nothing(faces, tmp_path):
    entry = entry_of("one_conv", {"learning_rate": 3e-3}, images=600)
    restorer = restorer_of(run(tmp_path, entry, faces), entry)
    given, true = degraded(faces), images_of(faces)
    restored = restore_faces(restorer, given, [sample.id for sample in faces])
    assert psnr(restored, true) > psnr(given, true) + 0.2
    assert restorer.name == "mine" and restorer.card["method"] == "one_conv"


# ---- a search for every face


@pytest.fixture
def search():
    entry = Model(method="searcher", settings={"steps": 8})
    return lambda recipe=X4, **settings: restorer_of(
        None, entry.model_copy(update={"settings": {**entry.settings, **settings}}), recipe
    )


def test_a_search_of_a_batch_is_that_of_its_faces_one_by_one(search, faces):
    given, ids = degraded(faces[:5]), list("abcde")
    together = restore_faces(search(), given, ids, seed=3, batch=4)
    alone = torch.cat([restore_faces(search(), given[i : i + 1], [ids[i]], 3) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    other = restore_faces(search(), given, ids, seed=4, batch=4)
    assert not torch.allclose(other, together, atol=1e-4)  # the seed counts


def test_a_search_is_told_the_degradation_or_assumes_one(search, faces):
    x8 = Recipe.model_validate(
        {
            "size": 64,
            "steps": [
                {"kind": "down", "factor": [8, 8], "filters": ["area"]},
                {"kind": "up", "filter": "bicubic"},
            ],
        }
    )
    given = degraded(faces[:2])
    told = restore_faces(search(recipe=x8), given, ["a", "b"])
    assumed = restore_faces(search(recipe=None, assumed_factor=8), given, ["a", "b"])
    assert torch.equal(told, assumed)
    assert not torch.equal(told, restore_faces(search(), given, ["a", "b"]))


def test_a_search_reports_iterations_and_time(search, faces, tmp_path):
    (tmp_path / "in").mkdir()
    for sample in faces[:3]:
        write_image(tmp_path / "in" / f"{sample.id}.png", np.asarray(Image.open(sample.image)))
    ids = [sample.id for sample in faces[:3]]
    table = tmp_path / "out.csv"
    restore_folder(ids, tmp_path / "in", tmp_path / "out", table, search())
    rows = rows_of(table)
    assert list(rows[0]) == ["id", "status", "reason", "iterations", "seconds"]
    assert [row["iterations"] for row in rows] == ["8"] * 3
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_a_reference_is_given_and_a_face_without_one_fails(faces, tmp_path):
    restorer = restorer_of(None, Model(method="with_reference", settings={"steps": 8}), X4)
    given, good = degraded(faces[:2]), images_of(faces[2:4])
    with_it = restore_faces(restorer, given, ["a", "b"], references=good)
    without = restore_faces(restorer, given, ["a", "b"])
    assert psnr(with_it, good) > psnr(without, good)  # drawn towards the reference
    (tmp_path / "in").mkdir()
    for sample in faces[:2]:
        write_image(tmp_path / "in" / f"{sample.id}.png", np.asarray(Image.open(sample.image)))
    ids, other = (
        [sample.id for sample in faces[:2]],
        {faces[0].id: faces[1].image, faces[1].id: None},
    )
    table = tmp_path / "out.csv"
    restore_folder(ids, tmp_path / "in", tmp_path / "out", table, restorer, references=other)
    first, second = rows_of(table)
    assert first["status"] == "restored"
    assert (second["status"], second["reason"]) == ("failed", "no other photograph of this person")


def test_a_method_that_wants_a_reference_is_refused_without_one(tmp_path):
    with pytest.raises(RestoreError, match="needs a reference face"):
        load_model("with_reference", root=tmp_path, results=tmp_path)


# ---- a sampler


def test_a_sampler_learns_draws_and_walks(faces, tmp_path):
    entry = entry_of("sampler", {"width": 8, "steps": 6}, images=400)
    restorer = restorer_of(run(tmp_path, entry, faces), entry)
    losses = [float(row["noise"]) for row in rows_of(tmp_path / "history.csv")]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    given = degraded(faces[:3])
    together = restore_faces(restorer, given, list("abc"), seed=1)
    alone = restore_faces(restorer, given[1:2], ["b"], seed=1)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(
        together, restore_faces(restorer, given, list("abc"), seed=2), atol=1e-3
    )


# ---- a net with sides of its own


def test_a_net_with_its_own_sides_is_fed_and_brought_back(faces, tmp_path):
    entry = entry_of("upscaler", images=400)
    seen = []
    module = load_method("upscaler")
    forward = module.Upscaler.forward
    try:
        module.Upscaler.forward = lambda net, x: seen.append(x.shape[-1]) or forward(net, x)
        out = run(tmp_path, entry, faces)
        restorer = restorer_of(out, entry)
        large = nn.functional.interpolate(degraded(faces[:2]), size=96, mode="bicubic").clamp(0, 1)
        restored = restore_faces(restorer, large, ["a", "b"])
    finally:
        module.Upscaler.forward = forward
    assert set(seen) == {16} and restored.shape[-1] == 96  # in training too
    losses = [float(row["l1_loss"]) for row in rows_of(tmp_path / "history.csv")]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def test_the_row_says_that_faces_were_resized(faces, tmp_path):
    entry = entry_of("upscaler", images=4)
    restorer = restorer_of(run(tmp_path, entry, faces), entry)
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", np.asarray(Image.open(faces[0].image)))
    restore_folder(["a"], tmp_path / "in", tmp_path / "out", tmp_path / "out.csv", restorer)
    [row] = rows_of(tmp_path / "out.csv")
    assert row["note"] == "the net takes 16 px and gives 64 px: faces of 64 px were resized"


# ---- two sets, stages, several networks

STAGES = [
    {"images": 16, "freeze": ["critic", "model.shift"]},
    {
        "images": 16,
        "freeze": ["model.encoder", "model.decoder"],
        "settings": {"reconstruction_weight": 0.0, "shift_weight": 1.0},
        "rates": {"critic": 0.5},
    },
]


def parts(folder: Path) -> dict[str, torch.Tensor]:
    networks, _ = checkpoint.load_weights(folder / "weights.safetensors")
    tensors = {f"{net}.{k}": v for net, state in networks.items() for k, v in state.items()}
    return {
        part: torch.cat([v.flatten() for k, v in tensors.items() if k.startswith(part)])
        for part in ("model.encoder", "model.shift", "model.decoder", "critic")
    }


def test_stages_freeze_weigh_and_survive_a_resume(faces, tmp_path):
    entry = entry_of("two_qualities", stages=STAGES)
    first = entry_of("two_qualities", stages=STAGES, images=16)
    start = entry_of("two_qualities", stages=STAGES[:1], images=16)
    whole, half = run(tmp_path / "whole", entry, faces), run(tmp_path / "half", first, faces)
    one = run(tmp_path / "one", start, faces)
    a, b = parts(half), parts(whole)
    moved = {part for part in a if not torch.equal(a[part], b[part])}
    assert moved == {"model.shift", "critic"}  # in the second stage
    assert all(torch.equal(a[part], v) for part, v in parts(one).items())
    rows = rows_of(whole / "history.csv")
    assert len(rows) == 8
    for at in (8, 16, 24):  # within a stage and at its end
        folder = tmp_path / f"killed_{at}"
        with pytest.raises(SystemExit):
            run(folder, entry, faces, [], stop_at=at)
        run(folder, entry, faces, [])
        assert all(torch.equal(b[part], v) for part, v in parts(folder).items()), at
        assert (folder / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_rates_of_a_stage_are_factors(faces, tmp_path):
    def trained(rates):
        stages = [{"images": 32, "rates": rates}]
        return parts(run(tmp_path / str(rates), entry_of("two_qualities", stages=stages), faces))

    usual, none = trained({}), trained({"critic": 0.0})
    assert torch.equal(usual["model.encoder"], none["model.encoder"])
    assert not torch.equal(usual["critic"], none["critic"])


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"freeze": ["encoder"]}, r"train\.stages\.0\.freeze: no part 'encoder'.*model, critic"),
        ({"freeze": ["model.encodr"]}, r"no part 'model\.encodr'"),
        ({"rates": {"critik": 1.0}}, r"stages\.0\.rates: no optimizer 'critik'"),
        ({"settings": {"shift_wait": 1.0}}, r"stages\.0\.settings\.shift_wait: unknown key"),
    ],
)
def test_a_wrong_stage_is_one_line(faces, tmp_path, stage, words):
    entry = entry_of("two_qualities", stages=[{"images": 4, **stage}])
    with pytest.raises(ValueError, match=words):
        run(tmp_path, entry, faces)


def test_two_sets_share_nobody_and_no_truth_of_the_bad_is_seen(faces):
    good, bad = data.disjoint(faces, faces, 0)
    assert good and bad
    assert not {s.person for s in good} & {s.person for s in bad}
    assert {s.person for s in good} | {s.person for s in bad} == {s.person for s in faces}
    both = data.TwoSets(data.TrainingFaces(good, 1, []), data.TrainingFaces(bad, 2, [X4]))
    batch = both.batch(0, 4, torch.device("cpu"))
    assert set(batch) == {"truth", "degraded"}
    true = {image.numpy().tobytes() for image in images_of(bad)}
    assert not any(x.numpy().tobytes() in true for part in batch.values() for x in part)
    # each set in an order of its own, that the position alone decides
    again = both.batch(0, 4, torch.device("cpu"))
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    others = [data.Sample("x", faces[0].image, person="somebody else")]
    assert data.disjoint(others, faces, 0) == (others, faces)
    with pytest.raises(ValueError, match="share so few people"):
        data.disjoint(faces[:1], faces[:1], 0)


# ---- a fit


def test_a_fit_takes_the_place_of_training(faces, tmp_path):
    entry = entry_of("mean_face", {"size": 64, "share": 0.25})
    restorer = restorer_of(run(tmp_path, entry, faces), entry)
    mean = images_of(faces).mean(0)
    torch.testing.assert_close(restorer.model.mean, mean, atol=1e-6, rtol=0)
    image = images_of(faces[:1])
    restored = restore_faces(restorer, image, ["a"])
    torch.testing.assert_close(restored, 0.75 * image + 0.25 * mean, atol=1e-6, rtol=0)
    assert (tmp_path / "samples.png").is_file() and rows_of(tmp_path / "history.csv")
    assert json.loads((tmp_path / "weights.json").read_text())["method"] == "mean_face"


# ---- pretrained parts

PARTS = """
import torch
from torch import nn

from frcore.config import Strict
from frcore.nets.losses import supervised

METHOD = {
    "title": "Parts",
    "data": "paired",
    "assets": ["identity", "emotion", "landmarks"],
    "training_assets": ["perceptual", "stlpips_vgg"],
}


class Settings(Strict):
    perceptual: str | None = "mobilenet_v2"


def build(settings):
    return nn.Conv2d(3, 3, 1)


def restore(model, faces, guide):
    assert set(guide) == {"identity", "emotion", "landmarks"}, set(guide)
    assert guide["identity"].descriptors(faces.images, 1.0, 0.1).shape[1] == 128
    assert guide["emotion"](faces.images).shape[1] == 7
    assert guide["landmarks"](faces.images).shape[1:] == (68, 2)
    return faces.images


make_trainer = supervised(nn.functional.l1_loss)
"""


def test_any_number_of_parts_by_name_in_training_and_restoring(tmp_path, resources, faces):
    (tmp_path / "parts.py").write_text(PARTS)
    add_methods_folder(tmp_path)
    names = ("dlib_resnet", "emotion", "dlib_68", "mobilenet_v2", "stlpips_vgg")
    there = present(resources(*names))
    row, module = METHODS["parts"], load_method("parts")
    wanted = {"identity": "dlib_resnet", "emotion": "emotion", "landmarks": "dlib_68"}
    assert row.parts({}, training=False) == wanted
    more = {"perceptual": "mobilenet_v2", "stlpips_vgg": "stlpips_vgg"}
    assert row.parts({}, training=True) == wanted | more
    assert row.parts({"perceptual": None}, True) == wanted | {"stlpips_vgg": "stlpips_vgg"}
    trained = guide.load_guide("parts", module.Settings(), {}, there, "cpu", training=True)
    assert set(trained) == {*wanted, *more}
    card = {"method": "parts", "settings": {}, **FRAME}
    path = tmp_path / "w.safetensors"
    checkpoint.save_weights(path, {"model": nn.Conv2d(3, 3, 1).state_dict()}, card)
    restorer = assemble("mine", card, path, {}, there)
    image = images_of(faces[:2])
    assert torch.equal(restore_faces(restorer, image, ["a", "b"]), image)
    with pytest.raises(RestoreError, match="emotion: `frcore weights fetch"):
        assemble("mine", card, path, {}, {k: v for k, v in there.items() if k != "emotion"})


# ---- what no method may do


def test_random_numbers_are_each_faces_own():
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    faces = Faces(torch.zeros(3, 3, 8, 8), generators=generators)
    first = faces.randn(2, 4)
    alone = Faces(torch.zeros(1, 3, 8, 8), generators=[torch.Generator().manual_seed(1)])
    assert torch.equal(alone.randn(2, 4)[0], first[1]) and first.shape == (3, 2, 4)
    still = Faces(torch.zeros(3, 3, 8, 8))
    assert (still.randn(5) == 0).all() and (still.rand(5) == 0.5).all()
    with pytest.raises(ValueError, match="iterations: 2 numbers for 3 faces"):
        faces.tell(iterations=[1, 2])


def test_an_average_that_is_still_its_start_is_refused():
    with pytest.raises(ValueError, match=r"the average is \d+% its start"):
        entry_of("one_conv", images=256, batch=8, ema_images=10_000, ema_ramp=100.0)
    kept = entry_of("one_conv", images=256, batch=8, ema_images=10_000)
    assert kept.train.start_share() < 0.01
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    start = copy.deepcopy(average)
    with torch.no_grad():
        model.weight.fill_(start.weight.item() + 1)
    seen = 0
    while seen < 64:  # what the loop does, by its own arithmetic
        seen += 8
        loop._move_average(average, model, 8, min(10_000, 0.5 * seen))
    share = entry_of("one_conv", images=64, batch=8, ema_images=10_000, ema_ramp=0.5)
    left = 1 - (average.weight - start.weight).item()
    assert share.train.start_share() == pytest.approx(left, abs=1e-5)
