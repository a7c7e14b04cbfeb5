"""Comparisons: one file each, with the same interface as `frcore.methods`."""
