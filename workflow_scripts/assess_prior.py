"""Weights of a prior and its encoder, faces -> scores.csv, samples.png, inversion_*.png."""

from frcore.stages.assess import assess_prior
from frcore.workflow.jobs import AssessPrior

assess_prior(AssessPrior.from_argument())
