"""Degraded, restored and true faces of fixed ids -> one picture."""

import argparse
import json
from pathlib import Path

from frcore.faces.build import face_files, read_table
from frcore.images import linked_folder
from frcore.report.figures import panel

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--titles", required=True, type=json.loads)
parser.add_argument("--restored", required=True, nargs="+", type=Path)
for name in ("degraded", "drawn", "out"):
    parser.add_argument(f"--{name}", required=True, type=Path)
parser.add_argument("--table", type=Path, help="with --faces: the true faces, where they are known")
parser.add_argument("--faces", type=Path)
parser.add_argument("--n", required=True, type=int)
a = parser.parse_args()

drawn = read_table(a.drawn)  # evenly spaced: neighbours are often one person
ids = [row["id"] for row in drawn[:: max(1, len(drawn) // a.n)][: a.n]]
true = dict(face_files(a.table, a.faces, "test")) if a.table else {}
with linked_folder(true) as truth:
    models = [(a.titles[folder.parts[-3]], folder) for folder in a.restored]
    last = [("Truth", truth)] if true else []
    panel(ids, [("Degraded", a.degraded), *models, *last], a.out)
