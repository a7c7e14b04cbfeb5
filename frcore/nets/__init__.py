"""Building blocks with several users; they know no method."""
