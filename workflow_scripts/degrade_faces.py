"""Test faces of a dataset -> their degraded copies, with the drawn parameters."""

from frcore.stages.degrade import degrade_faces
from frcore.workflow.jobs import DegradeFaces

degrade_faces(DegradeFaces.from_argument())
