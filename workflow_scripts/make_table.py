"""Long table -> the comparison for print, as CSV, Markdown and LaTeX."""

import argparse
import json

from frcore.report.table import comparison

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scores", required=True)
parser.add_argument("--titles", required=True, type=json.loads)
parser.add_argument("--out-csv", required=True)
parser.add_argument("--out-md", required=True)
parser.add_argument("--out-tex", required=True)
a = parser.parse_args()

comparison(a.scores, a.out_csv, a.out_md, a.out_tex, a.titles)
