"""Long table -> the comparison for print, as CSV, Markdown and LaTeX."""

from frcore.jobs import Comparison
from frcore.stages.report import comparison

comparison(Comparison.from_argument())
