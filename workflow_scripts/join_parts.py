"""The parts of a restored test set -> one folder and one table."""

from frcore.stages.restore import join_parts
from frcore.workflow.jobs import JoinParts

join_parts(JoinParts.from_argument())
