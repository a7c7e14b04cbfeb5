"""Weights of a prior and its encoder, faces -> scores.csv, samples.png, inversion_*.png."""

from frcore.jobs import AssessPrior
from frcore.stages.assess import assess_prior

assess_prior(AssessPrior.from_argument())
