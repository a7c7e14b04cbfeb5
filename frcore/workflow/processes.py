"""The processes around the workflow: what jobs inherit, what a killed run leaves behind."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def set_environment(scripts: Path) -> None:
    """What jobs inherit: this Python, this frcore, and $SCRIPTS; nothing is activated."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    os.environ["SCRIPTS"] = str(scripts)
    # threads that wait by spinning take ten times as long beside one other busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def launcher(gpus: int) -> str:
    """Command that starts a training script: torchrun with a process a GPU, or plain Python."""
    return f"torchrun --standalone --nproc-per-node {gpus}" if gpus > 1 else "python"


def queued_jobs(folder: Path, prefix: str = "fr_") -> list[str]:
    """Ids of this user's Slurm jobs that a killed Snakemake left running in `folder`."""
    if not shutil.which("squeue"):
        return []
    try:
        answer = subprocess.run(
            ["squeue", "-h", "--me", "-o", "%i|%j|%Z"], capture_output=True, text=True, timeout=20
        )
    except subprocess.TimeoutExpired:
        return []
    rows = [line.split("|") for line in answer.stdout.splitlines()]
    return [
        row[0]
        for row in rows
        if len(row) == 3
        and row[1].startswith(prefix)
        and Path(row[2]).resolve() == folder.resolve()
    ]


def clear_after_kill(folder: str | Path) -> None:
    """Stop the jobs that a killed Snakemake left running in `folder`, and remove its lock.

    Nothing is touched while a Snakemake is alive there: then SystemExit says so.
    """
    import psutil

    folder = Path(folder).resolve()
    here = [p for p in psutil.process_iter(["cmdline", "cwd"]) if _works_in(p, folder)]
    if any(_is_snakemake(process) for process in here):
        raise SystemExit(f"another run is going on in {folder}; wait for it or stop it first")
    orphans = [
        process
        for process in here
        if "workflow_scripts/" in " ".join(process.info["cmdline"])
        and process.pid != os.getpid()
        and "after_kill.py" not in " ".join(process.info["cmdline"])
    ]
    for process in orphans:
        print(f"stopping a job of a killed run: {' '.join(process.info['cmdline'])[:120]}")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()  # a training saves its state
    for process in psutil.wait_procs(orphans, timeout=60)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder / ".snakemake" / "locks", ignore_errors=True)


def _works_in(process, folder: Path) -> bool:
    # cmdline and cwd are None for processes of others
    return bool(process.info["cmdline"]) and process.info["cwd"] == str(folder)


def _is_snakemake(process) -> bool:
    words = process.info["cmdline"][:3]
    return any(Path(word).name == "snakemake" for word in words) or words[1:3] == [
        "-m",
        "snakemake",
    ]
