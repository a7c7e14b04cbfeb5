"""Weights of a prior and its encoder, faces -> scores.csv, samples.png, inversion_*.png."""

import argparse
import json
from pathlib import Path

import torch

from frcore.device import pick_device
from frcore.prior import assess_from_faces

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--weights", required=True, nargs="+", type=Path, help="PRIOR [ENCODER]")
parser.add_argument("--datasets", required=True, nargs="+")
parser.add_argument("--frame", required=True, type=json.loads)
parser.add_argument("--threads", required=True, type=int)
parser.add_argument("--seed", required=True, type=int)
parser.add_argument("--device", default="auto")
for name in ("results", "resources", "out"):
    parser.add_argument(f"--{name}", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(a.threads)
frame = (a.frame["crop_scale"], a.frame["crop_shift"])
assess_from_faces(
    a.name, a.weights, a.datasets, a.results, a.resources, a.out, frame, a.seed,
    pick_device(a.device),
)  # fmt: skip
