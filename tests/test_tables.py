"""CSV tables: rounding, gaps, and files that are complete or not there."""

import pytest

from frcore.io.tables import text, write_table


def test_cells_are_rounded_and_gaps_empty(tmp_path):
    rows = [{"a": 1 / 3, "b": 12345678901, "c": None}, {"a": "x,y"}]
    write_table(tmp_path / "new" / "t.csv", ("a", "b", "c"), rows, 3)
    assert (tmp_path / "new" / "t.csv").read_bytes() == b'a,b,c\n0.333,12345678901,\n"x,y",,\n'
    assert text(1 / 3) == "0.333333333"


def test_a_strange_column_leaves_the_old_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="z"):
        write_table(path, ("a",), [{"a": 1}, {"z": 2}])
    assert path.read_text() == "old"
