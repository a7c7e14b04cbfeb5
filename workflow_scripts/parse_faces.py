"""Aligned faces -> parsing maps of the truth."""

from frcore.stages.faces import parse_faces
from frcore.workflow.jobs import ParseFaces

parse_faces(ParseFaces.from_argument())
