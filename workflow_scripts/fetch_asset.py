"""One asset of the catalogue -> resources/{asset}/{file}, checked by its SHA-256."""

from frcore.stages.assets import fetch_asset
from frcore.workflow.jobs import FetchAsset

fetch_asset(FetchAsset.from_argument())
