"""Some faces under one degradation, several draws each -> a picture."""

from frcore.stages.degrade import contact_sheet
from frcore.workflow.jobs import ContactSheet

contact_sheet(ContactSheet.from_argument())
