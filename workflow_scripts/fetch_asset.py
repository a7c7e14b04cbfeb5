"""One asset of the catalogue -> resources/{asset}/, checked by SHA-256."""

import argparse

from frcore import assets
from frcore.config import Asset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--entry", required=True, type=Asset.model_validate_json)
parser.add_argument("--root", required=True)
arguments = parser.parse_args()

print(assets.fetch(arguments.name, arguments.root, {arguments.name: arguments.entry}))
