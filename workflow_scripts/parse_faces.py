"""Aligned faces -> parsing maps of the truth."""

import argparse
from pathlib import Path

from frcore.config import Dataset
from frcore.faces.build import parse_faces

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--spec", required=True, type=Dataset.model_validate_json)
parser.add_argument("--table", required=True, type=Path)
parser.add_argument("--faces", required=True, type=Path)
parser.add_argument("--parser", type=Path)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

if a.parser is None:
    parse_faces(a.spec, a.table, a.out)
else:
    from frcore.restore import predict_parsing

    predict_parsing(a.parser, a.table, a.faces, a.out)
