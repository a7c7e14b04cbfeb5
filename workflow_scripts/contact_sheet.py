"""Some faces under one degradation, several draws each -> a picture."""

import argparse
from pathlib import Path

from frcore.degrade import contact_sheet
from frcore.faces.build import face_files
from frcore.images import atomic_output, write_image
from frcore.recipes import Recipe

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--degradation", required=True)
parser.add_argument("--recipe", required=True, type=Recipe.model_validate_json)
parser.add_argument("--seed", required=True, type=int)
parser.add_argument("--table", required=True, type=Path)
parser.add_argument("--faces", required=True, type=Path)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

faces = face_files(a.table, a.faces, "test", 4)
with atomic_output(a.out) as part:
    write_image(part, contact_sheet(faces, a.recipe, a.degradation, seed=a.seed))
