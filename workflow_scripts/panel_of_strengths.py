"""Fixed faces under several degradations, restored by several models -> one picture."""

from frcore.jobs import PanelOfStrengths
from frcore.stages.panels import panel_of_strengths

panel_of_strengths(PanelOfStrengths.from_argument())
