"""Truth of a dataset -> features and statistics that the set metrics compare with."""

from frcore.jobs import TruthFeatures
from frcore.stages.metrics import truth_features

truth_features(TruthFeatures.from_argument())
