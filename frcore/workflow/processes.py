"""The processes around the workflow: what jobs inherit, what a killed run leaves behind."""

import atexit
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from frcore.io.files import SCRATCH, clear_scratch, full_disk

# one file a run, locked by it as long as it lives; the file holds the name of its host
RUNS = Path(".snakemake/frcore/runs")
# of notebooks, of other jobs' launchers and of debugging: jobs are processes of their own, without
# a screen, and torchrun tells its own what they are
_OTHERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "WORLD_SIZE"),
    *("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONSTARTUP"),
)
_CACHES = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME")  # below HOME where nobody says otherwise


def set_environment(scripts: Path) -> None:
    """What jobs inherit: this Python, this frcore, and $SCRIPTS; nothing is activated.

    What a notebook, a cluster's launcher or an unwritable home would change is put right.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    os.environ["SCRIPTS"] = str(scripts)
    # threads that wait by spinning take ten times as long beside one other busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["PYTHONIOENCODING"] = "utf-8"  # names of photographs are printed into logs
    for name in [n for n in os.environ if n in _OTHERS or n.startswith("TORCHELASTIC_")]:
        del os.environ[name]
    if not os.access(Path.home(), os.W_OK | os.X_OK):
        for name in _CACHES:
            os.environ.setdefault(name, str(Path(".snakemake/frcore/cache").absolute()))


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


def say_full_disks_in_one_line(writes: Path | None) -> None:
    """Let this process end with the path and no traceback where a disk or quota is full.

    writes: a file or folder of its own, for errors that name none.
    """

    def hook(kind, error, trace):
        number, named = full_disk(error), error
        if number is None:
            sys.__excepthook__(kind, error, trace)
            return
        while named is not None and not getattr(named, "filename", None):
            named = named.__cause__ or named.__context__
        path = named.filename if named is not None else writes
        print(f"frcore: error: {path}: {os.strerror(number)}", file=sys.stderr)

    sys.excepthook = hook


def note_run(folder: str | Path = ".") -> None:
    """Say that this process runs the workflow in `folder`, until it ends."""
    place = Path(folder) / RUNS / f"{socket.gethostname()}-{os.getpid()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    opened = open(place, "wb", buffering=0)  # noqa: SIM115 - held until the process ends
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    opened.write(socket.gethostname().encode())
    atexit.register(_end_run, opened, place)


def _end_run(opened, place: Path) -> None:
    place.unlink(missing_ok=True)
    opened.close()


def clear_after_kill(folder: str | Path) -> None:
    """Stop the jobs that a killed Snakemake left running in `folder`, and remove its lock.

    Nothing is touched while a Snakemake is alive there, or may be on another host: then SystemExit
    says so.
    """
    import psutil

    folder = Path(folder).resolve()
    here = [p for p in psutil.process_iter(["cmdline", "cwd"]) if _works_in(p, folder)]
    if any(_is_snakemake(process) for process in here):
        raise SystemExit(f"another run is going on in {folder}; wait for it or stop it first")
    _stop_for_others(folder)
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
    shutil.rmtree(folder / RUNS, ignore_errors=True)


def _stop_for_others(folder: Path) -> None:
    """SystemExit where Snakemake's lock is not known to be that of a run that was killed here."""
    locks = [*(folder / ".snakemake" / "locks").glob("*.lock")]
    if not locks:
        return
    unlock = "if it has ended there, `snakemake --unlock`"
    noted = 0.0
    for note in sorted((folder / RUNS).glob("*")):
        host, held = _host_of(note)
        if held:
            raise SystemExit(f"another run is going on in {folder}; wait for it or stop it first")
        if host != socket.gethostname():
            raise SystemExit(
                f"a run of {host} may be going on in {folder}: wait for it, or {unlock}"
            )
        noted = max(noted, note.stat().st_mtime)
    # Snakemake locks, then the run is noted
    if any(lock.stat().st_mtime > noted for lock in locks):
        raise SystemExit(
            f"{folder} is locked by a run that has not said where it is: wait for it, or {unlock}"
        )


def _host_of(note: Path) -> tuple[str, bool]:
    """The host of a run, and whether the run is alive as far as can be seen from here."""
    try:
        with open(note, "rb+") as opened:
            host = opened.read().decode(errors="replace")
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return host, True
    except OSError:
        return "another user or host", False
    return host, False


def clear_killed_jobs(results: str | Path) -> list[str]:
    """Remove scratch folders that killed jobs left below `results`; their names.

    Folders of images are not listed: they have a table beside them.
    """
    removed = []
    for folder, folders, files in os.walk(results):
        if any(name.startswith(SCRATCH) for name in folders):
            removed += clear_scratch(folder)
        tables = {*files}
        folders[:] = [
            name
            for name in folders
            if not (name.startswith(".") or name == "images" or f"{name}.csv" in tables)
            and Path(folder).name != "parsing"
        ]
    return removed


def _works_in(process, folder: Path) -> bool:
    # cmdline and cwd are None for processes of others
    return bool(process.info["cmdline"]) and process.info["cwd"] == str(folder)


def _is_snakemake(process) -> bool:
    words = process.info["cmdline"][:3]
    return any(Path(word).name == "snakemake" for word in words) or words[1:3] == [
        "-m",
        "snakemake",
    ]
