"""A stochastic model and one degraded test set -> how its restorations of one face differ."""

import argparse
import json
from pathlib import Path

import torch

from frcore.assets import present
from frcore.device import pick_device
from frcore.metrics.score import load_nets
from frcore.restore import load_entry
from frcore.samples import METRICS, assess_cell
from frcore.train import pairs

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--spec", required=True, type=json.loads)
parser.add_argument("--weights", action="append", default=[], help="ENTRY=WEIGHTS")
parser.add_argument("--cell", required=True, nargs=2, metavar=("DATASET", "DEGRADATION"))
parser.add_argument("--device", default="auto")
for name in ("results", "resources", "out"):
    parser.add_argument(f"--{name}", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(1)  # jobs run side by side
device = pick_device(a.device)
restorer = load_entry(a.name, a.spec, pairs(a.weights), device)
nets = load_nets(present(a.resources), METRICS, device)
assess_cell(restorer, a.cell, a.results, nets, a.out, a.spec["seed"])
