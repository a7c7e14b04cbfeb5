"""Restored faces and their truth -> scores per image and per set."""

from frcore.jobs import ScoreFaces
from frcore.stages.metrics import score_faces

score_faces(ScoreFaces.from_argument())
