"""Aligned faces -> parsing maps of the truth."""

from frcore.jobs import ParseFaces
from frcore.stages.faces import parse_faces

parse_faces(ParseFaces.from_argument())
