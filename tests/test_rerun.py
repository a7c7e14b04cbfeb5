"""What a change makes again, and nothing else: read from the plan of a finished run."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, job_counts, whole_config

pytestmark = pytest.mark.workflow

TOY = "tests/toy.yaml"
EXAMPLES = ROOT / "tests" / "examples"
# what a new number in the long table leads to
TABLES = {"join_scores": 1, "comparison": 1, "plot_scores": 1, "report_page": 1}


def planned(snakemake, folder, *words) -> dict[str, int]:
    """{rule: number of jobs} of a dry run, without the target itself."""
    process = snakemake(folder, "--cores", 2, "--configfile", TOY, *words, "-n")
    found = job_counts(process)
    found.pop("all", None)
    return found


@pytest.fixture
def changed(toy):
    """`changed(path, old, new)` replaces text in a file of the toy project until the test ends."""
    before = {}

    def change(name, old, new):
        path = toy / name
        text = path.read_text() if path.exists() else None
        before.setdefault(path, text)
        assert old == "" or text.count(old) >= 1, f"{name}: {old}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new if text is None else text.replace(old, new, 1) if old else text + new)

    yield change
    for path, text in before.items():
        if text is None:
            path.unlink()
        else:
            path.write_text(text)


def overlay(tmp_path, **content):
    path = tmp_path / f"over{len(list(tmp_path.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


# ---- adding and rewording plans nothing


NEW_STEP = "\n\nclass New(BaseStep):\n    kind: Literal['new']\n"
UNUSED_METRIC = """

@metric("unused", title="Unused", higher_is_better=True, needs_truth=False, what="nothing")
def unused(restored):
    return restored.flatten(1).mean(1).numpy()
"""


ADDITIONS = [
    ("frcore/methods/unused.py", "", (EXAMPLES / "methods" / "one_conv.py").read_text()),
    ("frcore/metrics/fidelity.py", "", UNUSED_METRIC),
    ("frcore/config/schema.py", "    minutes: int", "    new_field: int = 3\n    minutes: int"),
    ("frcore/config/schema.py", "    aligned: bool", "    new_field: int = 3\n    aligned: bool"),
    ("frcore/degrade/steps.py", "", NEW_STEP),
    ("frcore/faces/kinds/unused.py", "", "ASSETS = ()\n"),
    ("frcore/degrade/batched.py", "", "\n\ndef unused():\n    return 1\n"),
    ("frcore/methods/rdfr.py", '"title": "RDFR"', '"title": "Another"'),
    ("frcore/catalogue/models.yaml", "title: PSFR-GAN (64 px, small)", "title: Another"),
    ("frcore/restore/aligned.py", "\ndef try_faces(", "\n# a thought\ndef try_faces("),
]


def test_adding_and_rewording_plans_nothing(toy, snakemake, changed):
    """All at once: a dry run for each would take minutes, and names the first that plans a job."""
    for addition in ADDITIONS:
        changed(*addition)
    assert planned(snakemake, toy) == {}


def test_a_reworded_protocol_touches_the_page_that_prints_it(toy, snakemake, changed):
    changed("frcore/catalogue/protocols/toy.yaml", "title: A few metrics", "title: Some metrics")
    assert planned(snakemake, toy) == {"report_page": 1}


def test_reworded_descriptions_touch_the_page_that_prints_them(toy, snakemake, tmp_path):
    for recipe, expected in (("psfr_64", {}), ("x4_64", {"report_page": 1})):
        over = overlay(tmp_path, degradations={recipe: {"description": "In other words"}})
        assert planned(snakemake, toy, over) == expected, recipe


def test_an_entry_that_nobody_selects_plans_nothing(toy, snakemake, tmp_path):
    more = {
        "models": {"more": {"method": "bicubic"}},
        "datasets": {"more": {"source": "orl"}},
        "degradations": {"more": {"size": 64, "steps": []}},
    }
    assert planned(snakemake, toy, overlay(tmp_path, **more)) == {}


def test_hardware_and_places_plan_nothing(toy, snakemake, tmp_path):
    train = {"minutes": 7, "threads": 2, "memory_mb": 900, "save_images": 4, "gpus": 0}
    entry = {"train": train, "restore": {"batch": 3, "minutes": 9, "memory_mb": 700}}
    over = overlay(tmp_path, models={"toy_psfrgan": entry})
    assert planned(snakemake, toy, over) == {}


def test_a_copy_of_the_project_elsewhere_plans_nothing(toy, snakemake, tmp_path):
    folder = tmp_path / "moved" / "project"
    shutil.copytree(toy, folder, symlinks=True)
    assert planned(snakemake, folder) == {}


# ---- a change plans what it touches


def test_one_more_metric_is_measured_alone(toy, snakemake, changed):
    changed(
        "frcore/catalogue/protocols/toy.yaml", "metrics: [psnr_rgb,", "metrics: [psnr_y, psnr_rgb,"
    )
    assert planned(snakemake, toy) == {**TABLES, "score_faces": 1}


def test_changed_training_code_trains_again(toy, snakemake, changed):
    changed("frcore/methods/psfr_gan.py", "total = s.pixel_weight", "total = 2 * s.pixel_weight")
    found = planned(snakemake, toy)
    assert found.pop("train_model") == 1  # the parser is another method
    assert found.pop("restore_faces") == found.pop("score_faces") == 1
    assert found == {**TABLES, "plot_training": 1, "panel": 1}


def test_changed_code_of_one_metric_scores_again(toy, snakemake, changed):
    changed("frcore/metrics/fidelity.py", "0.03 * 255", "0.031 * 255")
    assert planned(snakemake, toy) == {**TABLES, "score_faces": 1}


def test_changed_code_of_a_step_degrades_again(toy, snakemake, changed):
    more = "    def more(self):\n        return 1\n\n"
    changed("frcore/degrade/steps.py", "class Noise(BaseStep):", f"class Noise(BaseStep):\n{more}")
    found = planned(snakemake, toy)  # trained on psfr_64, measured on x4_64, which has no noise
    assert found["train_model"] == 2 and "degrade_faces" not in found and "align_faces" not in found


def test_a_cell_more_is_made_alone(toy, snakemake, tmp_path):
    """One job makes all cells of a dataset, and takes from what was kept what is the same."""
    folder = tmp_path / "project"
    shutil.copytree(toy, folder, symlinks=True)
    before = read_scores(folder)
    results, logs = folder / "results", folder / "results" / "logs"
    kept = results / "restored/toy_psfrgan/digiface/kept/x4_64/images"
    one = min(kept.glob("*.png"))
    made = results / "restored/toy_psfrgan/digiface/x4_64" / one.name
    assert one.read_bytes() == made.read_bytes()  # the copy of the project has no hard links
    over = overlay(tmp_path, run={"degradations": ["x4_64", "x8_64"]})
    process = snakemake(folder, "--cores", 2, "--configfile", TOY, over)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    for log in ("degrade/digiface.log", "restore/toy_psfrgan/digiface.log"):
        lines = (logs / log).read_text().splitlines()
        assert "x4_64: as before" in lines and "x8_64: as before" not in lines
    assert one.samefile(made)
    after = read_scores(folder)
    assert {key: row["value"] for key, row in after.items()} == {
        key: row["value"] for key, row in before.items()
    }
    # what was damaged is made again
    one.write_bytes(b"")
    (results / "restored/toy_psfrgan/digiface/x4_64.csv").unlink()
    words = "--", "results/restored/toy_psfrgan/digiface/x4_64.csv"
    process = snakemake(folder, "--cores", 2, "--configfile", TOY, over, *words)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    lines = (logs / "restore/toy_psfrgan/digiface.log").read_text().splitlines()
    assert "x8_64: as before" in lines and "x4_64: as before" not in lines
    assert made.stat().st_size > 100


# ---- weights that are given or shipped


@pytest.fixture(scope="module")
def given(toy, snakemake, tmp_path_factory):
    """Words for a run, done once, with an entry that starts from shipped weights and one whose are
    given."""
    train = {"degradations": ["psfr_64"], "images": 4, "batch": 4, "ema_images": 0}
    content = {
        "results": "results_given",
        "run": {"models": ["fpn_64", "given"], "published": [], "contact_sheets": False},
        "models": {
            "fpn_64": {"train": train},
            "given": {"method": "fpn", "weights": "weights/fpn_64.safetensors"},
        },
    }
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    path.write_text(yaml.safe_dump(content))
    process = snakemake(toy, "--cores", 2, "--configfile", TOY, path)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    return path


def test_touched_weights_plan_nothing_and_others_what_reads_them(toy, snakemake, given):
    for path in (toy / "frcore/catalogue/weights").iterdir():
        os.utime(path)
    assert planned(snakemake, toy, given) == {}
    path = toy / "frcore/catalogue/weights/fpn_64.safetensors"
    before = path.read_bytes()
    try:
        path.write_bytes((toy / "frcore/catalogue/weights/fpn_64.safetensors").read_bytes() + b" ")
        found = planned(snakemake, toy, given)
    finally:
        path.write_bytes(before)
    assert found["train_model"] == 1 and found["restore_faces"] == 2
    assert "align_faces" not in found and "degrade_faces" not in found


def test_given_weights_keep_the_entrys_name_and_refuse_other_settings(
    toy, snakemake, given, tmp_path
):
    with open(toy / "results_given/tables/scores.csv", newline="") as opened:
        rows = {row["model"]: row for row in csv.DictReader(opened)}
    assert rows["given"]["model_note"].startswith("weights fpn_64.safetensors")
    assert {"fpn_64", "given"} <= set(rows)
    over = overlay(tmp_path, models={"given": {"settings": {"base": 16}}})
    process = snakemake(toy, "--cores", 1, "--configfile", TOY, given, over, "-n")
    assert process.returncode != 0
    assert (
        "config: models.given.settings.base: 16, the weights were trained with 32" in process.stderr
    )


def test_an_entry_without_weights_to_start_from_says_what_to_write(toy, snakemake, tmp_path):
    entry = {"method": "fpn", "train": {"degradations": ["psfr_64"], "images": 512}}
    over = overlay(tmp_path, models={"mine": entry}, run={"models": ["bicubic", "mine"]})
    process = snakemake(toy, "--cores", 1, "--configfile", TOY, over, "-n")
    assert process.returncode != 0
    [line] = [line for line in process.stderr.splitlines() if line.startswith("config: ")]
    assert "models.mine.init: no file weights/mine.safetensors" in line
    assert "write `init: scratch`" in line


# ---- files of a user's dataset


@pytest.fixture(scope="module")
def photos(toy, snakemake, tmp_path_factory):
    """Words for targets of a folder of photographs with people and label files, made once."""
    faces = sorted((toy / "results/faces/digiface/0000").glob("*.png"))[:4]
    folder, linked, masks = toy / "photos", toy / "elsewhere", toy / "masks"
    for place in (folder, linked, masks / "0"):
        place.mkdir(parents=True)
    for i, face in enumerate(faces[:3]):
        shutil.copy(face, (folder if i < 2 else linked) / f"{i}.png")
        shutil.copy(face, masks / "0" / f"{i:05d}_skin.png")
    (folder / "more").symlink_to("../elsewhere")
    people = "photo,person\n0.png,anna\n1.png,ben\nmore/2.png,cleo\n"
    (toy / "people.csv").write_text(people)
    mine = {
        "source": "folder",
        "path": "photos",
        "people": "people.csv",
        "aligned": True,
        "shards": 2,
        "labels": {"kind": "folder", "path": "masks"},
    }
    path = tmp_path_factory.mktemp("photos") / "photos.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"mine": mine}}))
    words = (path, "--", "results/parsing/mine")
    process = snakemake(toy, "--cores", 2, "--configfile", TOY, *words)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    return path


def plan_of_photos(snakemake, toy, photos):
    process = snakemake(
        toy, "--cores", 2, "-n", "--configfile", TOY, photos, "--", "results/parsing/mine"
    )
    text = process.stdout + process.stderr
    assert process.returncode == 0, text
    if "Job stats:" not in text:
        return {}
    rows = text.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {row.split()[0]: int(row.split()[1]) for row in rows if row.strip()}


def test_files_of_a_dataset_plan_what_they_touch(toy, snakemake, photos):
    assert plan_of_photos(snakemake, toy, photos) == {}
    table = toy / "people.csv"
    before = table.read_text()
    table.write_text(before.replace("cleo", "anna"))  # a corrected table of people
    assert plan_of_photos(snakemake, toy, photos) == {"join_faces": 1, "parse_faces": 1}
    table.write_text(before)
    mask = toy / "masks" / "0" / "00001_skin.png"
    mask.write_bytes(mask.read_bytes() + b" ")  # a changed label file
    assert plan_of_photos(snakemake, toy, photos) == {"parse_faces": 1}
    shutil.copy(toy / "photos" / "0.png", toy / "elsewhere" / "3.png")  # in a linked sub-folder
    assert plan_of_photos(snakemake, toy, photos) == {
        "align_faces": 2,
        "join_faces": 1,
        "parse_faces": 1,
    }


# ---- the dry exercise: a method, a trained net, a metric, here and in a user's folder


def place(toy, where, kind, name):
    """Put an example into the project or a user's folder -> what the configuration says."""
    folder = {"library": f"frcore/{kind}", "user": f"my_{kind}"}[where]
    (toy / folder).mkdir(exist_ok=True)
    shutil.copy(EXAMPLES / kind / f"{name}.py", toy / folder / f"{name}.py")
    return {kind: [folder]} if where == "user" else {}


@pytest.mark.parametrize("where", ["library", "user"])
def test_a_method_a_net_and_a_metric_are_a_file_and_a_line_each(toy, snakemake, tmp_path, where):
    folder = tmp_path / "project"
    shutil.copytree(toy, folder, symlinks=True)
    content = {
        **place(folder, where, "methods", "median"),
        **place(folder, where, "methods", "one_conv"),
        **place(folder, where, "metrics", "sharpness"),
        "models": {
            "median": {"method": "median", "settings": {"side_px": 3}},
            "one_conv": {
                "method": "one_conv",
                "init": "scratch",
                "train": {"degradations": ["psfr_64"], "images": 64, "minutes": 5},
            },
        },
        "run": {"models": ["bicubic", "toy_psfrgan", "median", "one_conv"]},
    }
    protocol = folder / "frcore/catalogue/protocols/toy.yaml"
    protocol.write_text(protocol.read_text().replace("[psnr_rgb,", "[sharpness, psnr_rgb,"))
    over = overlay(tmp_path, **content)
    found = planned(snakemake, folder, over)
    assert found == {
        **TABLES,
        "train_model": 1,
        "restore_faces": 2,
        "score_faces": 1,
        "plot_training": 1,
        "panel": 1,
    }
    old = read_scores(folder)
    process = snakemake(folder, "--cores", 2, "--configfile", TOY, over)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    new = read_scores(folder)
    for key, row in old.items():  # nothing that existed has moved
        assert new[key]["value"] == row["value"] and new[key]["ci_low"] == row["ci_low"], key
    for model in ("bicubic", "toy_psfrgan", "median", "one_conv"):
        assert float(new[model, "sharpness"]["value"]) > 0
    assert float(new["median", "psnr_rgb"]["value"]) > 20
    assert new["median", "psnr_rgb"]["value"] != new["bicubic", "psnr_rgb"]["value"]
    assert new["median", "psnr_rgb"]["model_note"] == "not trained"
    assert new["one_conv", "psnr_rgb"]["model_note"].startswith("init scratch; 64 images seen")
    page = (folder / "results" / "report.html").read_text()
    assert "Median filter" in page and "One convolution" in page and "Sharpness" in page
    assert planned(snakemake, folder, over) == {}


def test_methods_of_every_kind_run_from_photographs_to_the_table(toy, snakemake, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(toy, folder, symlinks=True)
    short = {"images": 8, "batch": 4, "minutes": 5}
    bad = {"samples": 60, "shards": 1, "split": {"train": 0.5, "val": 0.0, "test": 0.5}}
    base = whole_config()["datasets"]["digiface"]
    stages = [{"images": 4, "freeze": ["critic"]}, {"images": 4, "settings": {"shift_weight": 1.0}}]
    two = {**short, "low_quality": ["bad"], "degradations": ["small_64"], "stages": stages}
    content = {
        "methods": [str(EXAMPLES / "methods")],
        "datasets": {"bad": {**base, **bad, "low_quality": "small_64", "reference": "digiface"}},
        "models": {
            "searcher": {
                "method": "searcher",
                "settings": {"steps": 4},
                "restore": {"shards": 2, "batch": 3, "minutes": 5},
            },
            "with_reference": {"method": "with_reference"},
            "sampler": {"method": "sampler", "init": "scratch", "train": short},
            "upscaler": {
                "method": "upscaler",
                "init": "scratch",
                "train": {**short, "degradations": ["x4_64"]},
            },
            "two": {"method": "two_qualities", "init": "scratch", "train": two},
            "mean_face": {"method": "mean_face", "init": "scratch", "train": short},
        },
        "run": {"models": ["bicubic", "searcher", "with_reference", "sampler", "upscaler", "two",
                           "mean_face"]},
    }  # fmt: skip
    over = overlay(tmp_path, **content)
    process = snakemake(folder, "--cores", 2, "--configfile", TOY, over)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    rows = {name: row for (name, metric), row in read_scores(folder).items() if metric == "id_dlib"}
    n = rows["bicubic"]["n"]
    assert int(n) > 4
    for name in ("searcher", "sampler", "upscaler", "two", "mean_face"):
        assert rows[name]["n"] == n and 0 < float(rows[name]["value"]) <= 1, rows[name]
    assert "4 iterations a face" in rows["searcher"]["model_note"]
    assert "the net takes 16 px and gives 64 px" in rows["upscaler"]["model_note"]
    # every face of digiface is its own person: none has another photograph
    assert (rows["with_reference"]["value"], rows["with_reference"]["n"]) == ("", "0")
    assert "no other photograph of this person" in rows["with_reference"]["note"]
    card = json.loads((folder / "results/models/two/weights.json").read_text())
    assert card["low_quality"] == ["bad"] and len(card["stages"]) == 2
    parts = sorted((folder / "results/restored/searcher/digiface/x4_64.parts").glob("*.csv"))
    assert [part.stem for part in parts] == ["0000", "0001"]
    assert planned(snakemake, folder, over) == {}


def read_scores(folder, degradation="x4_64"):
    with open(folder / "results" / "tables" / "scores.csv", newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row["source"] == "measured"]
    rows = [row for row in rows if row["degradation"] == degradation]
    return {(row["model"], row["metric"]): row for row in rows}


# ---- jobs never outgrow the command line


def test_a_thousand_models_fit_on_the_command_line(toy, snakemake, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(toy, folder, symlinks=True)
    names = [f"bicubic_{i:04d}" for i in range(1000)]
    content = {
        "models": {name: {"method": "bicubic", "title": f"Number {name}"} for name in names},
        "run": {"models": names, "published": [], "contact_sheets": False},
    }
    scores, restored = folder / "results" / "scores", folder / "results" / "restored"
    for name in names:  # as if all had been restored and measured
        for root in (scores, restored):
            (root / name).mkdir()
            (root / name / "digiface").symlink_to(root / "bicubic" / "digiface")
    over = overlay(tmp_path, **content)
    words = ["--cores", 2, "--configfile", TOY, over]
    table = folder / "results" / "tables" / "scores.csv"
    before = table.stat().st_mtime_ns
    done = snakemake(
        folder, *words, "--allowed-rules", "join_scores", "comparison",
        "--rerun-triggers", "params", "--", "results/tables/comparison.md", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert table.stat().st_mtime_ns != before
    assert len({model for model, _ in read_scores(folder)}) == 1000


def test_a_long_job_goes_through_a_file(tmp_path):
    from frcore.workflow import job, jobs

    titles = {f"model_{i}": "x" * 50 for i in range(1000)}
    job = jobs.PlotTraining(titles=titles, input=job.Files(histories=["a.csv"]))
    word = job.argument(tmp_path)
    assert len(word) < 200 and word.startswith("@")
    assert jobs.PlotTraining.from_argument(["script", word]) == job
    short = jobs.PlotTraining(titles={"a": "b"})
    assert json.loads(short.argument(tmp_path)) == {"titles": {"a": "b"}}
    script = ROOT / "workflow_scripts" / "plot_training.py"
    call = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert call.returncode == 1 and "usage: plot_training.py JOB" in call.stderr
    assert not re.search("Traceback", call.stderr)
