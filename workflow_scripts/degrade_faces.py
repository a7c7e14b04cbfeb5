"""Test faces of a dataset -> their degraded copies, with the drawn parameters."""

import argparse
from pathlib import Path

import torch

from frcore.degrade import degrade_folder
from frcore.faces.build import face_files
from frcore.recipes import Recipe

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", required=True)
parser.add_argument("--degradation", required=True)
parser.add_argument("--recipe", required=True, type=Recipe.model_validate_json)
parser.add_argument("--seed", required=True, type=int)
parser.add_argument("--limit", required=True, type=int)
parser.add_argument("--table", required=True, type=Path)
parser.add_argument("--faces", required=True, type=Path)
parser.add_argument("--out-dir", required=True, type=Path)
parser.add_argument("--out-csv", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(1)
faces = face_files(a.table, a.faces, "test", a.limit)
degrade_folder(faces, a.out_dir, a.out_csv, a.recipe, a.seed, a.dataset, a.degradation)
