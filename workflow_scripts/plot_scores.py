"""Long table -> a figure a metric, as PNG and SVG."""

import argparse
import json
from pathlib import Path

from frcore.report.figures import plot_scores

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scores", required=True)
parser.add_argument("--metrics", required=True, nargs="+")
parser.add_argument("--titles", required=True, type=json.loads)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

for metric in a.metrics:
    names = (a.out / f"{metric}{kind}" for kind in (".png", ".svg"))
    plot_scores(a.scores, metric, *names, a.titles)
