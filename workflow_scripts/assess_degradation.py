"""Weights of a degradation model, faces -> scores.csv, pairs.png, degradation.png."""

from frcore.jobs import AssessDegradation
from frcore.stages.assess import assess_degradation

assess_degradation(AssessDegradation.from_argument())
