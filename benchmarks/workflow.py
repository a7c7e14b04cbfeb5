"""The graph."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measuring import ROOT, Bench, Row


def bench_workflow(b: Bench) -> Iterator[Row]:
    """A dry run of 25 models x 3 data sets x 6 degradations."""
    with tempfile.TemporaryDirectory() as folder:
        call, output = dry_run(Path(folder), 25)
        row = b.row("workflow", "dry run, 25 models x 3 sets x 6 degradations", "s", 1, call)
    jobs = re.findall(r"^total\s+(\d+)", output[0], re.M)
    yield Row(**{**vars(row), "note": f"snakemake -n from the shell, {jobs[-1]} jobs"})


def dry_run(folder: Path, n: int) -> tuple[Callable[[], None], list[str]]:
    """A call that plans n models x 3 data sets x 6 degradations in `folder`, and what it prints."""
    import yaml

    from frcore.config import load_config
    from frcore.io import assets

    config = load_config(ROOT / "config.yaml")
    settings = {**config.models["psfrgan_64"].settings}
    train = {"datasets": ["digiface"], "degradations": ["psfr_64"], "images": 256}
    learns = {"settings": settings, "train": train}
    models = {
        f"model_{i:02d}": {"method": "psfr_gan", "init": "scratch", "seed": i} | learns
        for i in range(n - 1)
    }
    recipes = config.degradations.items()
    presets = [name for name, recipe in recipes if recipe.size == 64 and not recipe.learned][:6]
    run = {"datasets": ["digiface", "orl", "third"], "models": ["bicubic", *models]}
    third = config.datasets["orl"].model_dump(exclude_defaults=True, mode="json")
    data = {"run": run | {"degradations": presets}, "datasets": {"third": third}, "models": models}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    (folder / "resources").symlink_to(Path(assets.resources_root()).resolve())
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
    command += ["--configfile", str(path), "--cores", "1", "-n", "--quiet", "rules"]
    output: list[str] = []

    def call() -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        output[:] = [done.stdout + done.stderr]
        if done.returncode:
            raise SystemExit(f"the dry run failed:\n{output[0][-3000:]}")

    return call, output
