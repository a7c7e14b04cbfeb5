"""One asset of the catalogue -> resources/{asset}/{file}, checked by its SHA-256."""

from frcore.jobs import FetchAsset
from frcore.stages.assets import fetch_asset

fetch_asset(FetchAsset.from_argument())
