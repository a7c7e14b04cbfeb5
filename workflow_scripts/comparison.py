"""Long table -> the comparison for print, as CSV, Markdown and LaTeX."""

from frcore.stages.report import comparison
from frcore.workflow.jobs import Comparison

comparison(Comparison.from_argument())
