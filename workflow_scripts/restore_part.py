"""A share of a test set."""

from frcore.jobs import RestorePart
from frcore.stages.restore import restore_part

restore_part(RestorePart.from_argument())
