"""A stochastic model and one degraded test set -> how its restorations of one face differ."""

from frcore.stages.assess import assess_samples
from frcore.workflow.jobs import AssessSamples

assess_samples(AssessSamples.from_argument())
