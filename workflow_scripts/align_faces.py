"""Photographs of one shard -> aligned faces, their rows, and the quarantine."""

from frcore.jobs import AlignFaces
from frcore.stages.faces import align_faces

align_faces(AlignFaces.from_argument())
