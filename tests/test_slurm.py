"""The toy run on a real Slurm: one node on this machine, two GPUs by name, no accounting."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT

pytestmark = pytest.mark.slurm

SCRIPTS = ROOT / "tests" / "slurm"
TOOLS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "munged")
# a site's own: shorter waits and smaller jobs; all else is slurm/config.yaml's
SITE = {
    "slurm-init-seconds-before-status-checks": 5,
    "latency-wait": 10,
    "default-resources": {"nodes": 1, "mem_mb": 500, "runtime": 10},
}
RUNS: list[subprocess.Popen] = []


def why_not() -> str | None:
    """Why a Slurm cannot be started here, or None."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian packages slurm-wlm and munge)"
    if os.geteuid() != 0:
        return "only root can start Slurm's daemons"
    return None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running Slurm; yields the folder of a site's profile."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    log = folder / "start.log"
    try:
        with open(log, "w") as opened:  # not a pipe: the daemons would keep it open
            started = subprocess.run(
                ["bash", str(SCRIPTS / "start.sh"), str(folder)],
                stdout=opened,
                stderr=opened,
                timeout=90,
            )
        if started.returncode:
            pytest.skip(f"Slurm does not start here: {log.read_text()[-500:]}")
        (folder / "site").mkdir()
        (folder / "site" / "config.yaml").write_text(yaml.safe_dump(SITE))
        yield folder / "site"
    finally:
        for run in RUNS:  # of a test that failed
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
        subprocess.run(["bash", str(SCRIPTS / "stop.sh"), str(folder)], timeout=60)


def start(folder: Path, site: Path, *words: str) -> subprocess.Popen:
    """`snakemake --profile slurm`, as typed in the repository root, and the site's profile."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--profile", "slurm"]
    command += ["--profile", str(site), "--configfile", "tests/toy.yaml", *words]
    with open(folder / "run.log", "a") as log:
        run = subprocess.Popen(
            ["timeout", "-k", "10", "-s", "INT", "300", *command],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    RUNS.append(run)
    return run


def finish(folder: Path, run: subprocess.Popen) -> tuple[int, str]:
    code = run.wait(timeout=330)
    return code, (folder / "run.log").read_text()


def queue(folder: Path) -> list[dict]:
    """Jobs of `folder` in the queue."""
    names = ("id", "state", "comment", "folder")
    answer = subprocess.run(
        ["squeue", "-h", "-t", "all", "-o", "%i|%T|%k|%Z"],
        capture_output=True,
        text=True,
        check=True,
    )
    jobs = [dict(zip(names, line.split("|"), strict=True)) for line in answer.stdout.splitlines()]
    return [job for job in jobs if job["folder"] == str(folder)]


def wait_for(condition, run, log, seconds=200):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        assert run.poll() is None, log.read_text()[-4000:]
        time.sleep(0.01)
    raise AssertionError(f"did not happen in time: {log.read_text()[-4000:]}")


def trainers(folder, model) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        is_python = bool(words) and Path(words[0]).name.startswith("python")
        named = any(f'"name":"{model}"' in word for word in words)
        if process.info["cwd"] == str(folder) and is_python and named:
            found += [process] if any(w.endswith("/train_model.py") for w in words) else []
    return found


def values(folder) -> list[tuple]:
    with open(folder / "results" / "tables" / "scores.csv", newline="") as opened:
        keys = ("model", "dataset", "degradation", "metric", "value", "n", "ci_low", "ci_high")
        return [tuple(row[key] for key in keys) for row in csv.DictReader(opened)]


def test_toy_run_on_slurm_survives_a_cancelled_training(cluster, toy, clone, tmp_path):
    folder = clone(tmp_path / "project")
    started = time.monotonic()
    run = start(folder, cluster)
    log, state = folder / "run.log", folder / "results/models/toy_psfrgan/state"

    # stop the training as soon as it has saved, so that it cannot end before it is cancelled
    [trainer] = wait_for(lambda: trainers(folder, "toy_psfrgan"), run, log)
    wait_for(lambda: list(state.glob("*/state.pt")), run, log)
    trainer.suspend()
    active = [job for job in queue(folder) if job["state"] == "RUNNING"]
    [job] = [job for job in active if "train_model" in job["comment"]]
    shown = subprocess.run(
        ["scontrol", "-d", "show", "job", job["id"]], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"GRES=gpu:1\(IDX:[01]\)", shown), shown
    subprocess.run(["scancel", job["id"]], check=True)  # wakes it, then asks it to stop

    code, text = finish(folder, run)
    print(f"toy run on Slurm: {time.monotonic() - started:.0f} s")
    assert code == 0, text[-5000:]
    assert "CANCELLED" in text
    trained = (folder / "results/logs/train/toy_psfrgan.log").read_text()
    [seen] = re.findall(r"resuming at (\d+) of 48 images", trained)
    assert 8 < int(seen) < 48  # SIGTERM saved more than the state that was there
    for name in ("toy_fpn", "toy_psfrgan"):
        given = (folder / f"results/logs/train/{name}.log").read_text()
        assert re.search(r"device cpu, CUDA_VISIBLE_DEVICES=[01]$", given, re.MULTILINE), given
        history = f"results/models/{name}/history.csv"
        assert (folder / history).read_bytes() == (toy / history).read_bytes()
    assert values(folder) == values(toy)
    assert len({job["id"] for job in queue(folder)}) == 11  # 10 jobs and the retry


def test_jobs_of_a_killed_run_stop_the_next(cluster, clone, tmp_path):
    folder = clone(tmp_path / "project")
    run, log = start(folder, cluster), folder / "run.log"
    wait_for(lambda: [job for job in queue(folder) if job["state"] == "RUNNING"], run, log)
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    run.wait()
    command = [sys.executable, "-m", "snakemake", "--unlock", "--cores", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    orphans = [job["id"] for job in queue(folder) if job["state"] in ("RUNNING", "PENDING")]
    assert orphans
    log.write_text("")
    code, text = finish(folder, start(folder, cluster, "--rerun-incomplete"))
    assert code != 0
    [line] = [line for line in text.splitlines() if "scancel" in line]
    assert "jobs of an earlier run are still in the queue" in line
    assert sorted(line.split("scancel")[1].split()) == sorted(orphans)
    assert "Traceback" not in text
    assert "Submitted" not in text
    subprocess.run(["scancel", *orphans], check=True)
