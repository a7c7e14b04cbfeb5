"""Truth of a dataset -> features and statistics that the set metrics compare with."""

from frcore.stages.metrics import truth_features
from frcore.workflow.jobs import TruthFeatures

truth_features(TruthFeatures.from_argument())
