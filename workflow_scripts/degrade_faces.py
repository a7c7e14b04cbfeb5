"""Test faces of a dataset -> their degraded copies, with the drawn parameters."""

from frcore.jobs import DegradeFaces
from frcore.stages.degrade import degrade_faces

degrade_faces(DegradeFaces.from_argument())
