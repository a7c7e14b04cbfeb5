"""Long table -> a figure a metric, as PNG and SVG."""

from frcore.jobs import PlotScores
from frcore.stages.report import plot_scores

plot_scores(PlotScores.from_argument())
