"""From photographs to aligned faces, parsing maps and tables, and back into the photograph."""
