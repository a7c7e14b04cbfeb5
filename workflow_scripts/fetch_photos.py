"""A packaged archive of photographs."""

from frcore.stages.assets import fetch_photos
from frcore.workflow.jobs import FetchPhotos

fetch_photos(FetchPhotos.from_argument())
