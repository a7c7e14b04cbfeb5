"""Score files of a run, published numbers and the models' cards -> the long table."""

from frcore.jobs import JoinScores
from frcore.stages.report import join_scores

join_scores(JoinScores.from_argument())
