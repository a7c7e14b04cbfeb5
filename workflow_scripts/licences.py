"""Licences of everything that a run reads, as Markdown."""

from frcore.stages.assets import licences
from frcore.workflow.jobs import Licences

licences(Licences.from_argument())
