"""Assets of a run -> the table of their licences."""

import argparse
import json
from pathlib import Path

from frcore import assets

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--entries", required=True, type=json.loads)
parser.add_argument("--root", required=True)
parser.add_argument("--out", required=True, type=Path)
arguments = parser.parse_args()

table = assets.licence_table(
    list(arguments.entries), arguments.root, assets.catalogue(arguments.entries)
)
arguments.out.write_text(table, encoding="utf-8")
