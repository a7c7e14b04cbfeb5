"""Photographs of one shard -> aligned faces, their rows, and the quarantine."""

import argparse
from pathlib import Path

import torch

from frcore.config import Dataset
from frcore.faces.build import build_shard

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--spec", required=True, type=Dataset.model_validate_json)
parser.add_argument("--shard", required=True, type=int)
parser.add_argument("--seed", required=True, type=int)
parser.add_argument("--resources", required=True, type=Path)
parser.add_argument("--out-dir", required=True, type=Path)
parser.add_argument("--out-csv", required=True, type=Path)
parser.add_argument("--out-quarantine", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(1)  # shards run side by side
build_shard(a.name, a.spec, a.shard, a.resources, a.seed, a.out_dir, a.out_csv, a.out_quarantine)
