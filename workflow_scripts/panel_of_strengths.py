"""Fixed faces under several degradations, restored by several models -> one picture."""

import argparse
import json
from pathlib import Path

from frcore.faces.build import face_files, read_table
from frcore.images import linked_folder
from frcore.report.figures import panel_of_strengths

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--spec", required=True, type=json.loads, help="of workflow.figure_spec")
parser.add_argument("--results", required=True, type=Path)
parser.add_argument("--table", type=Path, help="with --faces: the true faces, where they are known")
parser.add_argument("--faces", type=Path)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

dataset, degradations, n = (a.spec[key] for key in ("dataset", "degradations", "faces"))


def folders(root):
    return {name: root / dataset / name for name in degradations}


degraded = a.results / "degraded" / dataset
drawn = read_table(degraded / f"{degradations[0]}.csv")
ids = [row["id"] for row in drawn[:: max(1, len(drawn) // n)][:n]]  # evenly spaced, as in panels
true = dict(face_files(a.table, a.faces, "test")) if a.table else {}
with linked_folder(true) as truth:
    restored = a.results / "restored"
    models = [(title, folders(restored / model)) for model, title in a.spec["models"].items()]
    last = [("Truth", truth)] if true else []
    columns = [("Degraded", folders(degraded.parent)), *models, *last]
    panel_of_strengths(ids, degradations, columns, a.out)
