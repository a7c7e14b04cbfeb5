"""As `searcher`, for faces of whose people there is another photograph; others fail."""

from searcher import TINY, Nothing, Settings, build, restore

METHOD = {"title": "Search with a reference", "paper": "after SAIR", "reference": True}

__all__ = ["METHOD", "TINY", "Nothing", "Settings", "build", "restore"]
