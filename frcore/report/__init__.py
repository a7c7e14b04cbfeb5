"""What a run found: tables (table), pictures (figures), one page (page), all for a run (stage)."""
