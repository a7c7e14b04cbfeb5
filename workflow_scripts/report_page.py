"""Tables, figures, cards and quarantine of a run -> one self-contained page."""

from frcore.stages.report import report_page
from frcore.workflow.jobs import ReportPage

report_page(ReportPage.from_argument())
