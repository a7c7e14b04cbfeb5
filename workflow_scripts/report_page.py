"""Tables, figures, cards and quarantine of a run -> one self-contained page."""

from frcore.jobs import ReportPage
from frcore.stages.report import report_page

report_page(ReportPage.from_argument())
