"""Long table -> a figure a metric, as PNG and SVG."""

from frcore.stages.report import plot_scores
from frcore.workflow.jobs import PlotScores

plot_scores(PlotScores.from_argument())
