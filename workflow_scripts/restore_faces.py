"""One model and one degraded test set -> restored faces and the status of each."""

from frcore.jobs import RestoreFaces
from frcore.stages.restore import restore_faces

restore_faces(RestoreFaces.from_argument())
