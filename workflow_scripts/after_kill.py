"""Clear what a killed run left in a folder: its running jobs and Snakemake's lock."""

import argparse
from pathlib import Path

from frcore.workflow.processes import clear_after_kill

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", required=True, type=Path)
a = parser.parse_args()

clear_after_kill(a.folder)
