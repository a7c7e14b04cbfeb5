"""Photographs of one shard -> aligned faces, their rows, and the quarantine."""

from frcore.stages.faces import align_faces
from frcore.workflow.jobs import AlignFaces

align_faces(AlignFaces.from_argument())
