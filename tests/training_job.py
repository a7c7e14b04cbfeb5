"""Trains one tiny entry in a process of its own, and sends itself a signal on the way.

Started by test_train.py, also through torchrun: python tests/training_job.py WORK NAME [--at N]
[--signal KILL|TERM] [--batch N]. WORK holds faces/ and labels/.
"""

import argparse
import os
import signal
from pathlib import Path

import torch

from frcore.config import Model
from frcore.degrade.recipes import Recipe
from frcore.registry import METHODS, load_method
from frcore.train import entry as training
from frcore.train.data import Sample, TrainingFaces

RECIPE = Recipe.model_validate(
    {
        "size": 32,
        "steps": [
            {"kind": "blur", "p": 0.5, "choices": [{"shape": "gaussian", "sigma_px": [0.3, 1.5]}]},
            {"kind": "down", "factor": [1, 4], "filters": ["bilinear", "area"]},
            {"kind": "noise", "std_255": [0, 15]},
            {"kind": "up", "filter": "bilinear"},
        ],
    }
)
# half of the batches of two methods: pairs of the tiny degradation model in WORK/twins
PAIRS = Recipe.model_validate(
    {
        "size": 32,
        "steps": [{"kind": "learned", "model": "twins"}, {"kind": "noise", "std_255": [0, 15]}],
    }
)
MORE = {
    "fpn": {"labels": 4},
    "psfr_gan": {"labels": 4, "style": False, "parser": "parser"},
    # the warm-up ends and R1 is taken next to an interruption
    "rdfr": {"perceptual_weight": 0.0, "warmup_images": 16, "r1_every": 3},
    # every lazy step, and the augmentation's strength, on both sides of an interruption
    "stylegan2": {"size": 32, "r1_every": 3, "path_every": 2, "ada_target": 0.6, "ada_images": 60},
    "stylegan2_encoder": {"size": 32, "prior": "prior", "perceptual_weight": 0.0},
    "dl_st_degradation": {
        "size": 32,
        "prior": "prior",
        "perceptual_weight": 0.0,
        "r1_every": 3,
        "learning_rate": 1e-3,
    },
    # a period of the learning rate ends on the way
    "dl_st": {
        "size": 32,
        "prior": "prior",
        "perceptual_weight": 0.0,
        "r1_every": 3,
        "restart_images": 20,
    },
}
RECIPES = {"paired": ["tiny"], "unpaired": ["tiny"]}  # by the data that a method takes


def entry_of(method: str, **train_settings) -> Model:
    """A catalogue entry with the method's TINY settings: 48 images, 4 at a time."""
    settings = {**load_method(method).TINY, **MORE.get(method, {})}
    return Model(
        method=method,
        seed=3,
        init="scratch",
        settings=settings,
        train={
            "datasets": ["random"],
            "degradations": [
                *RECIPES.get(METHODS[method].data, []),
                *(["pairs"] if method in ("dl_st", "psfr_gan") else []),
            ],
            "images": 48,
            "batch": 4,
            "ema_images": 20,
            "save_images": 8,
            "sample_images": 24,
            **train_settings,
        },
    )


def samples_of(work: Path, labels: bool = True) -> list[Sample]:
    """The faces in WORK/faces, with their label maps or without."""
    faces = sorted((work / "faces").iterdir())
    return [Sample(p.stem, p, work / "labels" / p.name if labels else None) for p in faces]


def run(work: Path, name: str, entry: Model, lines: list | None = None, **more) -> Path:
    """Train `entry`; state in WORK/NAME/state, results in WORK/NAME."""
    torch.set_num_threads(1)
    roles = METHODS[entry.method].roles
    twins = {"twins": work / "twins" / "weights.safetensors"}
    training.train_model(
        name="entry",
        entry=entry,
        samples={"random": samples_of(work, METHODS[entry.method].needs_labels)},
        recipes={"tiny": RECIPE, "pairs": PAIRS},
        degraders=twins if "pairs" in entry.train.degradations else {},
        helpers={role: work / role / "weights.safetensors" for role in roles},
        assets={},
        out=work / name,
        state=work / name / "state",
        start=None if entry.init == "scratch" else Path(entry.init),
        device=torch.device("cpu"),
        card={"crop_scale": 1.0, "crop_shift": 0.1},
        log=print if lines is None else lines.append,
        **more,
    )
    return work / name


def at_position(position: int, action) -> None:
    """Call `action` when the batch at `position` is asked for."""
    batch = TrainingFaces.batch

    def watched(self, where, *words):
        if where == position:
            action()
        return batch(self, where, *words)

    TrainingFaces.batch = watched


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("name")
    parser.add_argument("--method", default="fpn")
    parser.add_argument("--at", type=int, default=-1)
    parser.add_argument("--signal", default="KILL")
    parser.add_argument("--batch", type=int, default=4)
    a = parser.parse_args()
    number = getattr(signal, f"SIG{a.signal}")
    at_position(a.at, lambda: os.kill(os.getpid(), number))
    run(a.work, a.name, entry_of(a.method, batch=a.batch))
