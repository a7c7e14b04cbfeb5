"""Degraded, restored and true faces of fixed ids -> one picture."""

from frcore.stages.panels import panel
from frcore.workflow.jobs import Panel

panel(Panel.from_argument())
