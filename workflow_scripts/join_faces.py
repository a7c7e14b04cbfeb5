"""Tables of a dataset's shards -> one table of faces with people and splits, one quarantine."""

from frcore.jobs import JoinFaces
from frcore.stages.faces import join_faces

join_faces(JoinFaces.from_argument())
