"""Metrics as pure functions; the table of their names is frcore.registry_metrics.METRICS."""
