"""A share of a test set."""

from frcore.stages.restore import restore_part
from frcore.workflow.jobs import RestorePart

restore_part(RestorePart.from_argument())
