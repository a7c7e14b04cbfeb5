"""Weights of a degradation model, faces -> scores.csv, pairs.png, degradation.png."""

import argparse
import json
from pathlib import Path

import torch

from frcore.device import pick_device
from frcore.learned import assess_from_faces

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--weights", required=True, type=Path)
parser.add_argument("--spec", required=True, type=json.loads)
parser.add_argument("--recipes", required=True, type=json.loads)
parser.add_argument("--threads", required=True, type=int)
parser.add_argument("--seed", required=True, type=int)
parser.add_argument("--device", default="auto")
for name in ("results", "resources", "out"):
    parser.add_argument(f"--{name}", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(a.threads)
assess_from_faces(
    a.name, a.weights, a.spec, a.recipes, a.results, a.resources, a.out, a.seed,
    pick_device(a.device),
)  # fmt: skip
