"""One model and one degraded test set -> restored faces and the status of each."""

from frcore.stages.restore import restore_faces
from frcore.workflow.jobs import RestoreFaces

restore_faces(RestoreFaces.from_argument())
