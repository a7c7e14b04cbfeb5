"""The workflow's own code: graph, jobs, digests, checks."""
