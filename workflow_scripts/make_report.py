"""Tables, figures, cards and quarantine of a run -> one self-contained page."""

import argparse
from pathlib import Path

from frcore.config import Config
from frcore.report.stage import report_run

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--config", required=True, type=Config.model_validate_json)
parser.add_argument("--out", required=True, type=Path)
a = parser.parse_args()

report_run(a.config, a.out)
