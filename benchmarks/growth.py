"""How cost grows with faces and models: python -m benchmarks.growth [--faces 1000,10000].

Each stage runs alone in a process of one thread; printed are its CPU seconds, what a face costs and
the most memory it held. 70,000 faces are FFHQ's number; they take most of an hour.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import ROOT, Bench, machine, number, one_thread

MODELS = (25, 100)


def photographs(folder: Path, n: int) -> list[tuple[str, Path]]:
    """n files of 64 px: 64 faces of the default data set under ever new names."""
    from frcore.io import assets
    from frcore.io.images import write_image

    faces = Bench(Path(assets.resources_root()), 1).faces(64, 64)
    folder.mkdir()
    found = []
    for i in range(n):
        path = folder / f"f{i:06d}.png"
        if i < 64:
            write_image(path, faces[i])
        else:
            path.hardlink_to(folder / f"f{i % 64:06d}.png")
        found.append((path.stem, path))
    return found


def align(folder: Path, n: int) -> Callable[[], object]:
    """Detection, landmarks and the cut, as a shard of the faces stage."""
    from frcore.config import load_config
    from frcore.faces.build import build_shard
    from frcore.io import assets

    photographs(folder / "in", n)
    own = load_config(ROOT / "config.yaml").datasets["digiface"]
    asked = {"source": "folder", "path": str(folder / "in"), "crop_scale": own.crop_scale}
    every = {"size": 64, "enlarge": 4, "max_yaw": None, "max_outside": 1.0, "shards": 1}
    dataset = type(own).model_validate(asked | every)
    outs = folder / "out", folder / "out.csv", folder / "quarantine.csv"
    root = Path(assets.resources_root())
    return lambda: build_shard("grown", dataset, 0, root, 0, *outs)


def degrade(folder: Path, n: int) -> Callable[[], object]:
    """One test set of psfr_64."""
    from frcore.config import load_config
    from frcore.degrade.test_sets import degrade_folder

    faces = photographs(folder / "in", n)
    recipe = load_config(ROOT / "config.yaml").degradations["psfr_64"]
    words = folder / "out", folder / "out.csv", recipe, 0, "grown", "psfr_64"
    return lambda: degrade_folder(faces, *words)


def score(folder: Path, n: int) -> Callable[[], object]:
    """PSNR, SSIM and MS-SSIM of one restored set."""
    from frcore.config import Protocol
    from frcore.metrics.stage import RestoredSet, write_scores

    truth = dict(photographs(folder / "in", n))
    status = [{"id": name, "status": "restored", "reason": ""} for name in truth]
    protocol = Protocol(metrics=["psnr_rgb", "ssim_rgb", "ms_ssim3_rgb"], size=64, bootstrap=100)
    one = RestoredSet(status, folder / "in", folder / "i.csv", folder / "s.csv", 0)
    return lambda: write_scores([one], truth, None, protocol, {}, 0.7, 0.1)


def iprecision(folder: Path, n: int) -> Callable[[], object]:
    """iPrecision and iRecall of n descriptors a side, ten of a person."""
    import numpy as np

    from frcore.metrics import score as scores
    from frcore.registry import METRICS
    from frcore.seeds import numpy_generator

    rng = numpy_generator("growth", n)
    true = rng.standard_normal((n, 128)).astype(np.float32)
    found = {"dlib_resnet": true + 0.7 * rng.standard_normal(true.shape).astype(np.float32)}
    ids = tuple(map(str, range(n)))
    people = tuple(str(i // 10) for i in range(n))
    known = scores.TruthFeatures(ids, {"dlib_resnet": true}, people=people)
    names = [
        name
        for name, row in METRICS.items()
        if row.kind == "set" and row.features == "dlib_resnet" and name.endswith("k4")
    ]
    return lambda: scores.score_set(ids, found, known, names)


def plan(folder: Path, n: int) -> Callable[[], object]:
    """A dry run of n models x 3 data sets x 6 degradations."""
    from benchmarks.workflow import dry_run

    return dry_run(folder, n)[0]


STAGES = {"align": align, "degrade": degrade, "score": score, "iprecision": iprecision}


def main(words: list[str] | None = None) -> None:
    """Run the stages and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--faces", default="1000,10000,70000")
    parser.add_argument("--only", default=",".join([*STAGES, "plan"]))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # stage:n, in a process of its own
    a = parser.parse_args(words)
    one_thread()
    if a.one:
        stage, n = a.one.split(":")
        with tempfile.TemporaryDirectory() as scratch:
            made = {**STAGES, "plan": plan}[stage](Path(scratch), int(n))
            before = _cpu_s()
            made()
            took = _cpu_s() - before
        most = max(resource.getrusage(who).ru_maxrss for who in _WHO) // 1024
        print(json.dumps([took, most]))
        return
    print(machine())
    print(f"{time.strftime('%Y-%m-%d')}\n")
    print("| stage | n | CPU s | ms a piece | most memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for stage in a.only.split(","):
        for n in MODELS if stage == "plan" else map(int, a.faces.split(",")):
            command = [sys.executable, "-m", "benchmarks.growth", "--one", f"{stage}:{n}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{stage} of {n} failed:\n{done.stderr[-2000:]}")
            took, most = json.loads(done.stdout.splitlines()[-1])
            each = number(1000 * took / n)
            print(f"| {stage} | {n:,} | {number(took)} | {each} | {most:,} |", flush=True)


_WHO = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in _WHO]
    return sum(u.ru_utime + u.ru_stime for u in used)


if __name__ == "__main__":
    main()
