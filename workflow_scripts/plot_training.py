"""Histories of trained models -> their losses over images seen."""

import argparse
import json
from pathlib import Path

from frcore.report.figures import plot_training

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--histories", required=True, nargs="+", type=Path)
parser.add_argument("--titles", required=True, type=json.loads)
parser.add_argument("--out", required=True)
a = parser.parse_args()

plot_training({a.titles[path.parent.name]: path for path in a.histories}, a.out)
