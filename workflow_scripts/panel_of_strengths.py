"""Fixed faces under several degradations, restored by several models -> one picture."""

from frcore.stages.panels import panel_of_strengths
from frcore.workflow.jobs import PanelOfStrengths

panel_of_strengths(PanelOfStrengths.from_argument())
