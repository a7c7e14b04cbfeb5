"""Faces, helper nets and one entry of `models:` -> weights, card, history, samples."""

import argparse
import json
from pathlib import Path

import torch

from frcore.train import pairs, train_from_spec

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--spec", required=True, type=json.loads)
parser.add_argument("--results", required=True, type=Path)
parser.add_argument("--helper", action="append", default=[], help="ROLE=WEIGHTS")
parser.add_argument("--degrader", action="append", default=[], help="ENTRY=WEIGHTS")
parser.add_argument("--asset", action="append", default=[], help="NAME=FILE")
parser.add_argument("--threads", required=True, type=int)
parser.add_argument("--save-images", required=True, type=int)
parser.add_argument("--sample-images", required=True, type=int)
parser.add_argument("--device", default="auto")
parser.add_argument("--state", required=True, type=Path)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(a.threads)
helpers, degraders, assets = pairs(a.helper), pairs(a.degrader), pairs(a.asset)
often = {"save_images": a.save_images, "sample_images": a.sample_images}
train_from_spec(
    a.name, a.spec, a.results, helpers, assets, a.state, a.out, often, a.device, degraders
)  # fmt: skip
