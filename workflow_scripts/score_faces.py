"""Restored faces and their truth -> scores per image and per set."""

import argparse
import json
from pathlib import Path

import torch

from frcore import assets
from frcore.config import Protocol
from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.metrics.stage import write_scores
from frcore.seeds import seed_for

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--protocol", required=True, type=Protocol.model_validate_json)
parser.add_argument("--frame", required=True, type=json.loads)
parser.add_argument("--cell", required=True)
parser.add_argument("--seed", required=True, type=int)
for name in ("images", "status", "resources", "out-images", "out-sets"):
    parser.add_argument(f"--{name}", required=True, type=Path)
parser.add_argument("--table", type=Path, help="with --faces: the true faces, where they are known")
parser.add_argument("--faces", type=Path)
parser.add_argument("--features", type=Path, help="of the truth, or of good faces")
parser.add_argument("--reference", default="", help="name of those good faces")
parser.add_argument("--device", default="auto")
a = parser.parse_args()

torch.set_num_threads(1)  # jobs run side by side
truth = dict(face_files(a.table, a.faces, "test")) if a.table else None
parts = assets.present(a.resources)
frame, seed = (a.frame["crop_scale"], a.frame["crop_shift"]), seed_for(a.seed, a.cell)
write_scores(read_table(a.status), a.images, truth, a.features, a.protocol, parts, *frame, seed,
             a.out_images, a.out_sets, pick_device(a.device), a.reference)  # fmt: skip
