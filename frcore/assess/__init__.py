"""What a run measures by name: priors, degradation models, samples."""
