"""One model and one degraded test set -> restored faces and the status of each."""

import argparse
import json
from pathlib import Path

import torch

from frcore.device import pick_device
from frcore.faces.build import read_table
from frcore.restore import load_entry, restore_folder
from frcore.train import pairs

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--spec", required=True, type=json.loads)
parser.add_argument("--weights", action="append", default=[], help="ENTRY=WEIGHTS")
parser.add_argument("--images", required=True, type=Path)
parser.add_argument("--table", required=True, type=Path)
parser.add_argument("--device", default="auto")
parser.add_argument("--out-dir", required=True, type=Path)
parser.add_argument("--out-csv", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(1)  # jobs run side by side
restorer = load_entry(a.name, a.spec, pairs(a.weights), pick_device(a.device))
ids = [row["id"] for row in read_table(a.table)]
print(restore_folder(ids, a.images, a.out_dir, a.out_csv, restorer, a.spec["seed"]))
