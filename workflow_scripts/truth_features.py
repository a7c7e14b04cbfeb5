"""Truth of a dataset -> features and statistics that the set metrics compare with."""

import argparse
import json
from pathlib import Path

import torch

from frcore import assets
from frcore.config import Protocol
from frcore.device import pick_device
from frcore.faces.build import face_files, read_table
from frcore.metrics.stage import write_truth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--protocol", required=True, type=Protocol.model_validate_json)
parser.add_argument("--frame", required=True, type=json.loads)
parser.add_argument("--table", required=True, type=Path)
parser.add_argument("--faces", required=True, type=Path)
parser.add_argument("--limit", required=True, type=int)
parser.add_argument("--resources", required=True, type=Path)
parser.add_argument("--device", default="auto")
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

torch.set_num_threads(1)  # jobs run side by side
only_train = a.protocol.reference == "train"
test = face_files(a.table, a.faces, "test", a.limit, allow_none=only_train)
train = face_files(a.table, a.faces, "train", allow_none=True)
people = {row["id"]: row["person"] for row in read_table(a.table)}
frame, parts = (a.frame["crop_scale"], a.frame["crop_shift"]), assets.present(a.resources)
write_truth(test, train, a.protocol, parts, a.out, *frame, people, pick_device(a.device))
