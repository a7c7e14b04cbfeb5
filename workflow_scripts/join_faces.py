"""Tables of a dataset's shards -> one table of faces with people and splits, one quarantine."""

from frcore.stages.faces import join_faces
from frcore.workflow.jobs import JoinFaces

join_faces(JoinFaces.from_argument())
