"""What is kept of a cell: the same key and sound files, or nothing."""

import os

import pytest

from frcore.io import kept


@pytest.fixture
def made(tmp_path):
    """A folder of two pictures and its table, as a job leaves them."""
    images, table = tmp_path / "out" / "cell", tmp_path / "out" / "cell.csv"
    images.mkdir(parents=True)
    for name in "ab":
        (images / f"{name}.png").write_bytes(name.encode() * 9)
    (images / ".snakemake_timestamp").touch()
    table.write_text("id\na\nb\n")
    return images, table


def read(images, table):
    return {p.name: p.read_bytes() for p in images.iterdir()}, table.read_text()


def test_what_is_kept_comes_back(tmp_path, made):
    store, target = tmp_path / "kept" / "cell", (tmp_path / "new" / "x", tmp_path / "new" / "x.csv")
    kept.keep(store, "key", *made)
    assert kept.take(store, "key", *target)
    assert sorted(read(*target)[0]) == ["a.png", "b.png"]  # not Snakemake's time stamp
    assert target[1].read_text() == made[1].read_text()
    assert (target[0] / "a.png").samefile(made[0] / "a.png")
    assert not kept.take(store, "another", *target)
    assert not kept.take(tmp_path / "nowhere", "key", *target)


def test_it_outlives_the_outputs_and_replaces_half_ones(tmp_path, made):
    store, before = tmp_path / "kept", read(*made)
    kept.keep(store, "key", *made)
    (made[0] / "a.png").unlink()
    made[1].unlink()
    assert kept.take(store, "key", *made)
    assert read(*made)[1] == before[1] and (made[0] / "a.png").is_file()


@pytest.mark.parametrize("damage", ["shorter", "gone", "more", "table", "key", "not json"])
def test_what_is_damaged_is_not_taken(tmp_path, made, damage):
    store = tmp_path / "kept"
    kept.keep(store, "key", *made)
    one = store / "images" / "a.png"
    if damage == "shorter":
        one.write_bytes(b"a")
    elif damage == "gone":
        one.unlink()
    elif damage == "more":
        (store / "images" / "c.png").write_bytes(b"c")
    elif damage == "table":
        (store / "table").write_text("id\n")
    else:
        (store / "key.json").write_text("{}" if damage == "key" else "{")
    target = tmp_path / "new", tmp_path / "new.csv"
    assert not kept.take(store, "key", *target)
    assert not target[0].exists() and not target[1].exists()


def test_without_hard_links_it_is_copied(tmp_path, made, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    kept.keep(tmp_path / "kept", "key", *made)
    target = tmp_path / "new", tmp_path / "new.csv"
    assert kept.take(tmp_path / "kept", "key", *target)
    assert (target[0] / "a.png").read_bytes() == b"a" * 9
    assert not (target[0] / "a.png").samefile(made[0] / "a.png")


def test_content_is_of_names_and_bytes_in_any_folder(tmp_path, made):
    first = kept.content(made)
    moved = tmp_path / "moved"
    made[0].rename(moved)
    assert kept.content([moved, made[1]]) == first
    (moved / "a.png").rename(moved / "c.png")
    assert kept.content([moved, made[1]]) != first
    assert kept.key_of(1, {"a": 2}) == kept.key_of(1, {"a": 2}) != kept.key_of(1, {"a": 3})
