"""The workflow as a user meets it: what it would run, a small whole run, kills, wrong settings."""

import contextlib
import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from conftest import ROOT, job_counts, whole_config

from frcore.config import CATALOGUE
from frcore.registry import METRICS
from frcore.workflow.graph import TABLES

pytestmark = pytest.mark.workflow

TOY = "tests/toy.yaml"
RUN = ("--cores", "2", "--configfile", TOY)
MASKED = ("fpn", "psfr_gan")  # methods that read parsing maps
STAGES = ("align_faces", "train_model", "score_faces")


def write_yaml(path, **content):
    path.write_text(yaml.safe_dump(content))
    return path


# ---- the graph


@pytest.fixture(scope="module")
def bare(clone, tmp_path_factory):
    """A copy of the project in which nothing has run."""
    return clone(tmp_path_factory.mktemp("bare") / "project")


def test_lint_finds_nothing(snakemake, bare):
    process = snakemake(bare, "--lint")
    assert process.returncode == 0, process.stdout + process.stderr


def expected_jobs(config) -> dict[str, int]:
    """Jobs of a run, counted from its configuration alone."""
    run = config["run"]
    models, datasets = run["models"], run["datasets"]
    waiting, trained = list(models), set()
    while waiting:
        name = waiting.pop()
        entry = config["models"][name]
        if "train" not in entry or name in trained:
            continue
        trained.add(name)
        waiting += [entry["settings"].get(role) for role in ("parser", "prior")]
        steps = [config["degradations"][g]["steps"] for g in entry["train"].get("degradations", [])]
        waiting += [first["model"] for first, *_ in steps if first["kind"] == "learned"]
        waiting = [name for name in waiting if name]
    entries = {name: config["models"][name] for name in trained}
    sources = {d for entry in entries.values() for d in entry["train"]["datasets"]}
    masked = [e["train"]["datasets"] for e in entries.values() if e["method"] in MASKED]
    own = {d: config["datasets"][d].get("low_quality") for d in datasets}
    good = {config["datasets"][d]["reference"] if own[d] else d for d in datasets}
    used = sources | set(datasets) | good
    return {
        "align_faces": sum(config["datasets"][d]["shards"] for d in used),
        "join_faces": len(used),
        "parse_faces": len({d for names in masked for d in names}),
        "train_model": len(trained),
        "degrade_faces": len(datasets),
        "truth_features": len(good),
        "restore_faces": len(models) * len(datasets),
        "score_faces": len(datasets) * math.ceil(len(models) / 8),
        "panel": 1,
        "contact_sheet": 1,
        "join_scores": 1,
        "comparison": 1,
        "plot_scores": 1,
        "plot_training": 1,
        "report_page": 1,
        "licences": 1,
        "all": 1,
    }


def without_fetching(jobs):
    return {rule: n for rule, n in jobs.items() if not rule.startswith("fetch_")}


def test_default_run_has_the_expected_jobs(snakemake, bare):
    config = whole_config()
    assert without_fetching(job_counts(snakemake(bare, "--cores", 2, "-n"))) == expected_jobs(
        config
    )


def test_every_kind_of_training_has_the_expected_jobs(snakemake, bare, tmp_path):
    config = whole_config()
    config["run"] |= {
        "models": ["bicubic", "psfrgan_64_learned", "dl_st_64", "rdfr_64"],
        "datasets": ["digiface", "orl_small"],
        "degradations": ["gfpgan_plain_64", "small_64"],
    }
    path = write_yaml(tmp_path / "all.yaml", **config)
    jobs = without_fetching(job_counts(snakemake(bare, "--cores", 2, "-n", "--configfile", path)))
    assert jobs == expected_jobs(config)
    # the restorers, the parser, the prior and the degradation model
    assert (jobs["train_model"], jobs["restore_faces"], jobs["score_faces"]) == (6, 8, 2)


def test_catalogue_of_25_models_has_the_expected_jobs(snakemake, bare, tmp_path):
    config = whole_config()
    entry = config["models"]["psfrgan_64"]
    seeds = {f"seed_{i}": {**entry, "seed": i, "init": "scratch"} for i in range(24)}
    config["models"] |= seeds
    config["datasets"]["more"] = {**config["datasets"]["orl"], "shards": 3}
    small = [name for name in config["degradations"] if name.endswith("_64")][:6]
    config["run"] |= {
        "models": ["bicubic", *(f"seed_{i}" for i in range(24))],
        "datasets": ["digiface", "orl", "more"],
        "degradations": small,
    }
    path = write_yaml(tmp_path / "large.yaml", **config)
    started = time.monotonic()
    jobs = job_counts(snakemake(bare, "--cores", 2, "-n", "--configfile", path))
    print(f"dry run of {sum(jobs.values())} jobs: {time.monotonic() - started:.1f} s")
    assert len(small) == 6
    assert without_fetching(jobs) == expected_jobs(config)
    assert (jobs["restore_faces"], jobs["score_faces"]) == (75, 12)


@pytest.mark.parametrize(
    ("run", "restore", "expected"),
    [
        ({"models_per_score": 0}, {"together": False}, (2 + 8, 12)),
        ({"models_per_score": 1}, {}, (2 + 4, 6)),
        ({"models_per_score": 2}, {"shards": 3}, (3, 4)),
    ],
)
def test_size_of_jobs_is_a_setting(snakemake, bare, tmp_path, run, restore, expected):
    """Three models on digiface (three degradations) and on faces that are bad already."""
    models = {name: {"restore": restore} for name in ("bicubic", "rdfr_64", "psfrgan_64")}
    run |= {"models": [*models], "datasets": ["digiface", "orl_small"]}
    if "together" in restore:
        models.pop("bicubic")
    over = write_yaml(tmp_path / "over.yaml", run=run, models=models)
    jobs = job_counts(snakemake(bare, "--cores", 2, "-n", "--configfile", over))
    if "shards" in restore:
        assert (jobs["restore_part"], jobs["join_parts"]) == (3 * 3 * 4, 3 * 4)
        assert "restore_faces" not in jobs and jobs["score_faces"] == expected[1]
    else:
        assert (jobs["restore_faces"], jobs["score_faces"]) == expected


def test_one_cell_is_planned_by_its_name(snakemake, bare):
    target = "results/scores/bicubic/digiface/bicn_64.csv"
    jobs = without_fetching(job_counts(snakemake(bare, "--cores", 2, "-n", "--", target)))
    for kind in ("degrade_faces", "restore_faces", "score_faces"):
        assert jobs[kind] == 1
    assert "train_model" not in jobs


def test_figure_is_planned_when_asked_for(snakemake, bare):
    """Four models at three strengths, none of them selected by the default run."""
    target = "results/figures/strengths/rdfr_skips.png"
    jobs = without_fetching(job_counts(snakemake(bare, "--cores", 2, "-n", "--", target)))
    assert jobs.pop("align_faces") == 6
    assert jobs == {
        "join_faces": 1,
        "degrade_faces": 3,
        "train_model": 4,
        "restore_faces": 12,
        "panel_of_strengths": 1,
    }


def test_model_that_starts_from_another_trains_both(snakemake, bare, tmp_path):
    over = write_yaml(tmp_path / "o.yaml", run={"models": ["rdfr_64_x8"], "datasets": ["orl"]})
    jobs = job_counts(snakemake(bare, "--cores", 2, "-n", "--configfile", over))
    assert jobs["train_model"] == 2 and jobs["restore_faces"] == 1


def test_faces_of_low_quality_are_planned_without_truth(snakemake, bare, tmp_path):
    run = {"models": ["bicubic"], "datasets": ["orl_small", "orl"], "figures": []}
    over = write_yaml(tmp_path / "over.yaml", run=run)
    process = snakemake(bare, "--cores", 2, "-n", "-p", "--configfile", over)
    jobs = job_counts(process)
    assert jobs["degrade_faces"] == jobs["score_faces"] == 2
    assert jobs["truth_features"] == 2  # orl's own, and digiface's for orl_small
    [scores] = [job for job in jobs_of(process, "score_faces") if job["dataset"] == "orl_small"]
    assert scores["input"]["features"] == ["results/truth/digiface.npz"]
    assert (scores["reference"], scores["input"]["truth"]) == ("digiface", [])
    [pictures] = jobs_of(process, "panel")
    assert pictures["unknown"] == ["orl_small"]
    assert len(pictures["cells"]) == len(pictures["output"]["picture"]) == 3 + 1


def jobs_of(process, rule) -> list[dict]:
    """What a dry run with -p says that the jobs of a rule would be given."""
    lines = [line for line in process.stdout.splitlines() if f"/{rule}.py" in line]
    words = [shlex.split(line) for line in lines]
    return [json.loads(w[1 + [f"/{rule}.py" in x for x in w].index(True)]) for w in words]


def test_a_learned_degradation_is_trained_first(snakemake, bare, tmp_path):
    over = write_yaml(tmp_path / "over.yaml", run={"models": ["bicubic", "dl_st_64"]})
    process = snakemake(bare, "--cores", 2, "-n", "-p", "--configfile", over)
    assert job_counts(process)["train_model"] == 3  # prior, degradation, restorer
    [restorer] = [j for j in jobs_of(process, "train_model") if j["name"] == "dl_st_64"]
    assert restorer["degraders"] == {"dl_64": "results/models/dl_64/weights.safetensors"}
    assert restorer["helpers"] == {"prior": "results/models/stylegan2-64/weights.safetensors"}
    restoring = [j for j in jobs_of(process, "restore_faces") if j["name"] == "dl_st_64"]
    assert restoring
    own = {"dl_st_64": "results/models/dl_st_64/weights.safetensors"}
    assert all(job["weights"] == own for job in restoring)


def test_slurm_profile_needs_no_slurm_to_plan(snakemake, bare, tmp_path):
    for tool in ("bash", "sh", "env", "which", "git", "uname", "rm"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    npm = shutil.which("npm")  # with it one net more is fetched
    if npm:
        (tmp_path / "npm").symlink_to(npm)
    jobs = job_counts(snakemake(bare, "--profile", "slurm", "-n", env={"PATH": str(tmp_path)}))
    assert jobs == job_counts(snakemake(bare, "--cores", 2, "-n"))


# ---- what is wrong is said in one line, at once, and before any job


def wrong(key, value):
    """An overlay that sets one key: "run.models" -> {"run": {"models": value}}."""
    content = value
    for part in reversed(key.split(".")):
        content = {part: content}
    return content


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("run.modles", ["bicubic"], ["run.modles", "did you mean 'models'"]),
        ("run.models", ["bicubik"], ["run.models", "'bicubik'", "did you mean 'bicubic'"]),
        ("datasets.digiface.samples", 0, ["datasets.digiface.samples", "greater", "got 0"]),
        ("models.toy_psfrgan.method", "psfr", ["models.toy_psfrgan.method", "'psfr_gan'"]),
        ("models.toy_psfrgan.settings.hiden", 4, ["settings.hiden", "did you mean 'hidden'"]),
        ("run.degradations", ["second_order_64"], ["second_order_64 makes true faces of its own"]),
        ("run.protocol", "fces64", ["'fces64'", "did you mean 'faces64'"]),
        (
            "datasets.digiface",
            {"source": "folder", "path": "photographs"},
            ["datasets.digiface.path", "no folder photographs"],
        ),
        ("models.bicubic.train", {"images": 64}, ["models.bicubic.train", "not trained"]),
        (
            "models.toy_psfrgan.weights",
            "mine.safetensors",
            ["models.toy_psfrgan.weights", "no file mine.safetensors"],
        ),
    ],
)
def test_wrong_setting_is_one_line(snakemake, bare, tmp_path, key, value, words):
    over = write_yaml(tmp_path / "over.yaml", **wrong(key, value))
    started = time.monotonic()
    process = snakemake(bare, "--cores", 1, "--configfile", TOY, over)
    seconds = time.monotonic() - started
    print(f"{key}: {seconds:.1f} s")
    assert process.returncode != 0
    assert seconds < 20
    text = process.stdout + process.stderr
    lines = [line for line in text.splitlines() if line.startswith("config: ")]
    assert len(lines) == 1, text
    assert all(word in lines[0] for word in words), lines
    assert "Traceback" not in text
    assert not (bare / "results").exists()


def test_all_mistakes_are_said_at_once(snakemake, bare, tmp_path):
    over = write_yaml(tmp_path / "o.yaml", seeed=1, run={"panel": 0}, models={"x": {"metod": "a"}})
    process = snakemake(bare, "--cores", 1, "--configfile", TOY, over)
    found = [
        line.split(":")[1].strip() for line in process.stderr.splitlines() if "config:" in line
    ]
    assert {"seeed", "run.panel", "models.x.metod"} <= set(found)


def test_missing_asset_offline_stops_before_any_job(snakemake, bare, tmp_path):
    over = write_yaml(tmp_path / "over.yaml", resources="nothing_here")
    started = time.monotonic()
    process = snakemake(bare, "--cores", 1, "--configfile", TOY, over, env={"PIP_NO_INDEX": "1"})
    seconds = time.monotonic() - started
    print(f"missing asset: {seconds:.1f} s")
    assert process.returncode != 0
    assert seconds < 20
    text = process.stdout + process.stderr
    [line] = [line for line in text.splitlines() if "is missing" in line]
    assert re.search(r"asset \w+ is missing.*put \S+ into .*nothing_here", line), line
    assert "Traceback" not in text
    assert "Finished job" not in text
    assert not list(bare.glob("results/**/*.png"))


# ---- a whole run


def read_scores(folder):
    with open(folder / "results" / "tables" / "scores.csv", newline="") as opened:
        return list(csv.DictReader(opened))


COLUMNS = (
    "model method dataset degradation protocol metric value n ci_low ci_high seed source note "
    "model_note"
)


def test_long_table_has_every_cell(toy):
    rows = read_scores(toy)
    assert list(rows[0]) == COLUMNS.split()
    measured = [row for row in rows if row["source"] == "measured"]
    metrics = yaml.safe_load((CATALOGUE / "protocols" / "toy.yaml").read_text())["metrics"]
    cells = {(row["model"], row["metric"]) for row in measured}
    assert cells == {(m, metric) for m in ("bicubic", "toy_psfrgan") for metric in metrics}
    assert len(measured) == len(cells)
    for row in measured:
        assert re.fullmatch(r"toy@[0-9a-f]{12}", row["protocol"])
        # no package ships FID's net: an empty value with a reason, not a zero
        assert bool(row["value"]) == (row["metric"] != "fid_inception")
        assert row["value"] or "no weights: inception" in row["note"]
        if METRICS[row["metric"]].kind == "image" and row["value"]:
            assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
        if row["metric"] == "iprecision_dlib_k4":
            assert row["note"].startswith(f"chance {4 / int(row['n']):.3g}")
    assert {row["source"] for row in rows} == {"measured", "published"}
    psnr = {row["model"]: float(row["value"]) for row in measured if row["metric"] == "psnr_rgb"}
    assert 20 < psnr["bicubic"] < 40  # a face shrunk four times
    assert psnr["toy_psfrgan"] < psnr["bicubic"]  # 48 images of training restore nothing


def test_tables_figures_and_report_are_there(toy):
    results = toy / "results"
    for name in TABLES:
        assert (results / "tables" / name).stat().st_size > 100, name
    assert "toy_psfrgan" in (results / "tables" / "scores.csv").read_text()
    assert "non-commercial" in (results / "tables" / "licences.md").read_text()  # dlib's landmarks
    for name in ("scores/psnr_rgb.png", "scores/id_dlib.svg", "panels/digiface/x4_64.png"):
        assert (results / "figures" / name).stat().st_size > 1000, name
    page = (results / "report.html").read_text()
    assert page.count("data:image/") >= 4
    outside = re.findall(
        r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'> ]+|url\((?!["']?data:)""", page
    )
    assert not outside
    assert not re.search(r"<(script|link|iframe)[^>]*(src|href)", page)


def test_faces_without_truth_have_rows_with_reasons(clone, snakemake, resources, tmp_path):
    folder = clone(tmp_path / "project")
    shutil.copytree(resources("orl") / "orl", folder / "resources" / "orl", copy_function=os.link)
    few = {"limit": 100, "shards": 1}
    over = write_yaml(
        tmp_path / "over.yaml",
        run={"datasets": ["orl_small"], "models": ["bicubic"], "published": []},
        datasets={"orl": few, "orl_small": few | {"reference": "orl"}},
    )
    process = snakemake(folder, *RUN, over)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    rows = {row["metric"]: row for row in read_scores(folder)}
    assert {(row["dataset"], row["degradation"]) for row in rows.values()} == {
        ("orl_small", "small_64")
    }
    for name in ("psnr_rgb", "ssim_rgb", "id_dlib", "iprecision_dlib_k4", "lpips_alex_v0.1"):
        assert (rows[name]["value"], rows[name]["n"]) == ("", "0")
        assert rows[name]["note"].startswith("no ground truth")
    fid = rows["fid_mobilenetv2"]
    assert 0 < float(fid["ci_low"]) <= float(fid["value"]) <= float(fid["ci_high"])
    assert fid["note"].startswith(f"orl n = {fid['n']}; ")  # the same people, as good photographs
    assert (folder / "results" / "report.html").read_text().count("no truth") >= 1
    assert not (folder / "results" / "truth" / "orl_small.npz").exists()


def test_second_run_has_nothing_to_do(toy, snakemake):
    started = time.monotonic()
    process = snakemake(toy, *RUN)
    seconds = time.monotonic() - started
    print(f"second run: {seconds:.1f} s")
    assert process.returncode == 0
    assert "Nothing to be done" in process.stdout + process.stderr
    assert seconds < 30


def dry(snakemake, folder, *overlays):
    return set(job_counts(snakemake(folder, *RUN, *overlays, "-n"))) - {"all"}


AFTER_SCORES = {"join_scores", "comparison", "plot_scores", "report_page"}


@pytest.mark.parametrize(
    ("key", "value", "rules"),
    [
        (
            "models.toy_psfrgan.settings.pixel_weight",
            5.0,
            AFTER_SCORES
            | {"train_model", "restore_faces", "score_faces", "plot_training", "panel"},
        ),
        ("models.toy_psfrgan.train.minutes", 7, AFTER_SCORES & {"nothing"}),
        ("run.panel", 3, {"panel"}),
    ],
)
def test_changed_setting_reruns_what_depends_on_it(toy, snakemake, tmp_path, key, value, rules):
    over = write_yaml(tmp_path / "over.yaml", **wrong(key, value))
    jobs = job_counts(snakemake(toy, *RUN, over, "-n"))
    # the page and the long table print the whole configuration, so they may follow any change of it
    cheap = {"join_scores", "comparison", "plot_scores", "report_page", "all"}
    assert rules - cheap <= set(jobs), jobs
    assert set(jobs) <= rules | cheap, jobs
    if "train_model" in jobs:  # the other model and the parser stay as they are
        assert jobs["train_model"] == jobs["restore_faces"] == jobs["score_faces"] == 1


def test_comment_reruns_nothing_and_code_what_runs_it(toy, snakemake):
    module = toy / "frcore" / "metrics" / "fidelity.py"
    before = module.read_text()
    try:
        module.write_text(before.replace("\ndef ", "\n# a thought\ndef ", 1) + "\n# the end\n")
        assert module.read_text() != before
        assert dry(snakemake, toy) == set()
        module.write_text(before + "\nNOBODY_READS = 1\n")
        assert dry(snakemake, toy) == set()
        module.write_text(before.replace("C1, C2 = (0.01", "C1, C2 = (0.011"))
        jobs = dry(snakemake, toy)
        assert {"score_faces", "join_scores"} <= jobs
        assert not jobs & {"align_faces", "train_model", "restore_faces", "degrade_faces"}
    finally:
        module.write_text(before)


# ---- killed and gone on with


def jobs_in(folder, script):
    """Processes of one of the workflow's scripts that work in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(folder) and any(w.endswith(f"/{script}.py") for w in words):
            found.append(process)
    return found


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("did not happen in time")


def all_stopped(root):
    """A process and all below it, halted, so that none starts another while they are killed."""
    stopped = []
    for _ in range(100):
        with contextlib.suppress(psutil.NoSuchProcess):
            new = [p for p in (root, *root.children(recursive=True)) if p not in stopped]
            if not new:
                return stopped
            for process in new:
                process.suspend()
                stopped.append(process)
    raise AssertionError("new processes without end")


def kill_at(folder, stage, whole):
    """Start the toy run, SIGKILL Snakemake during `stage`; its jobs too if `whole`."""
    words = [sys.executable, "-m", "snakemake", *RUN, "--rerun-incomplete"]
    with open(folder / "killed.log", "a") as log:
        run = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)

    def reached():
        assert run.poll() is None, (folder / "killed.log").read_text()[-3000:]
        saved = list(folder.glob("results/models/toy_psfrgan/state/*/state.pt"))
        return (stage != "train_model" or saved) and jobs_in(folder, stage)

    jobs = wait_for(reached)
    stopped = all_stopped(psutil.Process(run.pid)) if whole else []
    run.send_signal(signal.SIGKILL)
    for process in stopped:
        process.kill()
    run.wait()
    psutil.wait_procs(stopped, timeout=10)
    return jobs


def after_kill(folder):
    script = folder / "workflow_scripts" / "after_kill.py"
    return subprocess.run(
        [sys.executable, str(script), "--folder", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_killed_runs_end_like_the_uninterrupted_one(toy, clone, snakemake, tmp_path):
    folder = clone(tmp_path / "project")
    for stage in STAGES:
        whole = stage != "train_model"
        jobs = kill_at(folder, stage, whole)
        if stage == "align_faces":
            # a job may have written its faces before it died: without the option that comes first
            locked = snakemake(folder, *RUN, "--rerun-incomplete")
            assert locked.returncode != 0
            assert "Directory cannot be locked" in locked.stdout + locked.stderr
        if not whole:  # in the middle of a training that goes on
            assert any(process.is_running() for process in jobs)
            [state] = (folder / "results/models/toy_psfrgan/state").iterdir()
            rows = (state / "history.csv").read_text().count("\n") - 1
            assert 2 <= rows < 12
        cleared = after_kill(folder)
        assert cleared.returncode == 0, cleared.stdout + cleared.stderr
        assert ("stopping a job" in cleared.stdout) == (not whole)
        assert not any(jobs_in(folder, name) for name in STAGES)
    process = snakemake(folder, *RUN, "--rerun-incomplete")
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-5000:]
    ours = (folder / "results" / "tables" / "scores.csv").read_bytes()
    assert ours == (toy / "results" / "tables" / "scores.csv").read_bytes()
    for name in ("toy_fpn", "toy_psfrgan"):
        path = f"results/models/{name}/history.csv"
        assert (folder / path).read_bytes() == (toy / path).read_bytes()


def test_after_kill_leaves_a_living_run_alone(tmp_path):
    living = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "-m", "snakemake"], cwd=tmp_path
    )
    named = subprocess.Popen(["bash", "-c", "exec -a snakemake sleep 60"], cwd=tmp_path)
    try:
        wait_for(lambda: psutil.Process(named.pid).cmdline()[:1] == ["snakemake"])
        (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
        process = after_kill_of_project(tmp_path)
        assert process.returncode != 0
        assert "another run is going on" in process.stderr
        assert "Traceback" not in process.stderr
        assert (tmp_path / ".snakemake" / "locks").exists()
        named.kill()
        named.wait()
        assert after_kill_of_project(tmp_path).returncode == 0
        assert not (tmp_path / ".snakemake" / "locks").exists()
        assert living.poll() is None  # not one of ours: not touched
    finally:
        for process in (living, named):
            process.kill()
            process.wait()


def after_kill_of_project(folder):
    script = ROOT / "workflow_scripts" / "after_kill.py"
    words = [sys.executable, str(script), "--folder", str(folder)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)
