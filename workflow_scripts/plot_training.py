"""Histories of trained models -> their losses over images seen."""

from frcore.jobs import PlotTraining
from frcore.stages.report import plot_training

plot_training(PlotTraining.from_argument())
