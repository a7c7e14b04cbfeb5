"""Histories of trained models -> their losses over images seen."""

from frcore.stages.report import plot_training
from frcore.workflow.jobs import PlotTraining

plot_training(PlotTraining.from_argument())
