"""What the workflow's scripts call: one function a rule, of the same name, that takes its job."""

from pathlib import Path


def listed(files: Path | list[Path]) -> list[Path]:
    """One file or several of a rule, as a list."""
    return [files] if isinstance(files, Path) else files
