"""Frozen nets that methods and metrics lean on: one file each, `load(path, device)`."""
