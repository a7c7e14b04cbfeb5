"""Restoring: models, aligned faces, photographs."""
