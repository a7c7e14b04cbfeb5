"""Licences of everything that a run reads, as Markdown."""

from frcore.jobs import Licences
from frcore.stages.assets import licences

licences(Licences.from_argument())
