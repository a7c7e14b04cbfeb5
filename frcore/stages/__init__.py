"""What the workflow's scripts call: one function a rule, of the same name, that takes its job."""
