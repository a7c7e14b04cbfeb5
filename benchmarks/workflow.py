"""The graph."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import ROOT, Bench, Row


def bench_workflow(b: Bench) -> Iterator[Row]:
    """A dry run of 25 models x 3 data sets x 6 degradations."""
    import yaml

    settings = {**b.config.models["psfrgan_64"].settings}
    train = {"datasets": ["digiface"], "degradations": ["psfr_64"], "images": 256}
    models = {
        f"model_{i:02d}": {"method": "psfr_gan", "settings": settings, "seed": i, "train": train}
        for i in range(24)
    }
    recipes = b.config.degradations.items()
    presets = [name for name, recipe in recipes if recipe.size == 64 and not recipe.learned][:6]
    run = {"datasets": ["digiface", "orl", "third"], "models": ["bicubic", *models]}
    third = b.config.datasets["orl"].model_dump(exclude_defaults=True, mode="json")
    data = {"run": run | {"degradations": presets}, "datasets": {"third": third}, "models": models}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(yaml.safe_dump(data))
        Path(folder, "resources").symlink_to(b.root.resolve())
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
        command += ["--configfile", str(config), "--cores", "1", "-n", "--quiet", "rules"]
        output = []

        def dry_run():
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            output[:] = [done.stdout + done.stderr]
            if done.returncode:
                raise SystemExit(f"the dry run failed:\n{output[0][-3000:]}")

        row = b.row("workflow", "dry run, 25 models x 3 sets x 6 degradations", "s", 1, dry_run)
    jobs = re.findall(r"^total\s+(\d+)", output[0], re.M)
    yield Row(**{**vars(row), "note": f"snakemake -n from the shell, {jobs[-1]} jobs"})
