"""Faces, helper nets and one entry of `models:` -> weights, card, history, samples."""

from frcore.jobs import TrainModel
from frcore.stages.train import train_model

train_model(TrainModel.from_argument())
