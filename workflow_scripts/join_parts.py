"""The parts of a restored test set -> one folder and one table."""

from frcore.jobs import JoinParts
from frcore.stages.restore import join_parts

join_parts(JoinParts.from_argument())
