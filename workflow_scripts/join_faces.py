"""Tables of a dataset's shards -> one table of faces with splits, one quarantine."""

import argparse
from pathlib import Path

from frcore.config import Dataset
from frcore.faces.build import join_shards

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--spec", required=True, type=Dataset.model_validate_json)
parser.add_argument("--seed", required=True, type=int)
parser.add_argument("--tables", required=True, nargs="+", type=Path)
parser.add_argument("--quarantines", required=True, nargs="+", type=Path)
parser.add_argument("--out-csv", required=True, type=Path)
parser.add_argument("--out-quarantine", required=True, type=Path)
a = parser.parse_args()

print(join_shards(a.name, a.spec, a.seed, a.tables, a.quarantines, a.out_csv, a.out_quarantine))
