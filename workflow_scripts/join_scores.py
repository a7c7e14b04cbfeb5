"""Score files of a run, published numbers and the models' cards -> the long table."""

from frcore.stages.report import join_scores
from frcore.workflow.jobs import JoinScores

join_scores(JoinScores.from_argument())
