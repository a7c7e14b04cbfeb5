"""A stochastic model and one degraded test set -> how its restorations of one face differ."""

from frcore.jobs import AssessSamples
from frcore.stages.assess import assess_samples

assess_samples(AssessSamples.from_argument())
