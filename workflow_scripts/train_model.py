"""Faces, helper nets and one entry of `models:` -> weights, card, history, samples."""

from frcore.stages.train import train_model
from frcore.workflow.jobs import TrainModel

train_model(TrainModel.from_argument())
