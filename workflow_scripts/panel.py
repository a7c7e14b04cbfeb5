"""Degraded, restored and true faces of fixed ids -> one picture."""

from frcore.jobs import Panel
from frcore.stages.panels import panel

panel(Panel.from_argument())
