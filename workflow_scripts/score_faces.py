"""Restored faces and their truth -> scores per image and per set."""

from frcore.stages.metrics import score_faces
from frcore.workflow.jobs import ScoreFaces

score_faces(ScoreFaces.from_argument())
