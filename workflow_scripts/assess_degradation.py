"""Weights of a degradation model, faces -> scores.csv, pairs.png, degradation.png."""

from frcore.stages.assess import assess_degradation
from frcore.workflow.jobs import AssessDegradation

assess_degradation(AssessDegradation.from_argument())
