"""Some faces under one degradation, several draws each -> a picture."""

from frcore.jobs import ContactSheet
from frcore.stages.degrade import contact_sheet

contact_sheet(ContactSheet.from_argument())
