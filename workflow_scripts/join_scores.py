"""Score files of a run, published numbers and the models' cards -> the long table."""

import argparse
from pathlib import Path

from frcore.config import Config
from frcore.report.stage import join_run

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--config", required=True, type=Config.model_validate_json)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

join_run(a.config, a.out)
