"""The performance table: its arithmetic and its print, with a clock that the test turns."""

import csv

import pytest

from benchmarks import measuring
from benchmarks.__main__ import main
from benchmarks.measuring import (
    Row,
    exponent,
    measure,
    number,
    read_csv,
    slower,
    table,
    write_csv,
    write_page,
)


class Clock:
    """Stands still but for what the measured calls add."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, *seconds: float):
        """A call that takes these times in turn, the last one from then on."""
        left = list(seconds)

        def run():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_median_ignores_one_slow_repeat():
    clock = Clock()
    warm_up = 9.0
    found = measure({"ours": clock.call(warm_up, 0.5, 0.5, 3, 0.5, 1)}, 5, clock)
    assert found["ours"] == pytest.approx((0.5, 0.5, 3, 0.5, 1))
    row = Row("g", "w", "images/s", items=10, seconds=found["ours"])
    assert row.record()["median"] == "20.0"


def test_quick_calls_are_repeated_within_a_repeat():
    clock, count = Clock(), []

    def call():
        count.append(1)
        clock.now += 0.001

    found = measure({"ours": call}, 3, clock)
    assert found["ours"] == pytest.approx((0.001,) * 3)
    assert len(count) == 2 + 3 * round(measuring.LEAST_SECONDS / 0.001)


def test_turns_and_limits():
    clock, order = Clock(), []

    def take(name, seconds):
        def run():
            order.append(name)
            clock.now += seconds

        return run

    found = measure({"ours": take("a", 1), "peer": take("b", 2)}, 9, clock)
    assert order == ["a", "b"] * 4  # warm-up, then three repeats: 9 s are more than MOST_SECONDS
    assert found == {"ours": (1, 1, 1), "peer": (2, 2, 2)}
    assert len(measure({"ours": take("c", measuring.TOO_LONG + 1)}, 5, clock)["ours"]) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.6, "1230"), (12.345, "12.3"), (0.012345, "0.0123"), (0, "0"), (999.6, "1000")],
)
def test_number(value, text):
    assert number(value) == text


def test_exponent():
    assert exponent(4.4e-16) == -15
    assert exponent(1.0) == 1


def test_units_and_ratio():
    row = Row("g", "w", "pairs/s", 8, (2.0, 4.0, 4.0), "other", (8.0, 8.0, 8.0)).record()
    assert (row["median"], row["peer_median"], row["ratio"]) == ("2.00", "1.00", "2.00")
    assert row["spread"] == "±25%"
    assert row["repeats"] == "3"
    assert Row("g", "w", "ms/image", 4, (0.1,)).record()["median"] == "25.0"
    assert Row("g", "w", "s", 1, (9.0,)).record()["median"] == "9.00"


def test_table_and_csv(tmp_path):
    rows = [
        Row("faces", "one", "faces/s", 10, (1.0, 1.0)),
        Row("metrics", "psnr", "pairs/s", 10, (1.0,), "scikit-image", (0.5,), note="same images"),
        Row("metrics", "lpips", "pairs/s", 0, note="no weights: alexnet"),
        Row("metrics", "ssim", "pairs/s", 10, (1.0,), note="same images"),
    ]
    lines = table(rows).splitlines()
    assert lines[0].split() == [*measuring.COLUMNS[:7], "peer's", "ratio"]
    assert lines[3] == ""  # between groups
    assert lines[4].endswith("0.500")
    assert "psnr [1]" in lines[4] and "lpips [2]" in lines[5] and "ssim [1]" in lines[6]
    assert lines[-2:] == ["[1] same images", "[2] no weights: alexnet"]
    # numbers of a column end below each other
    assert len({line.index("/s") for line in lines if "/s" in line}) <= 2

    write_csv(tmp_path / "bench.csv", rows, "a machine")
    with (tmp_path / "bench.csv").open(encoding="utf-8", newline="") as opened:
        read = list(csv.DictReader(opened))
    assert [row["median"] for row in read] == ["10.0", "10.0", "-", "10.0"]
    assert {row["machine"] for row in read} == {"a machine"}


def test_rows_slower_than_the_last_table_are_named(tmp_path):
    def rows(seconds, peer):
        return [
            Row("a", "beside a peer", "images/s", 10, (seconds,), "other", (peer,)),
            Row("a", "alone", "ms", 1, (seconds,)),
            Row("b", "new", "s", 1, (seconds,)),
        ]

    path = tmp_path / "last.csv"
    write_csv(path, rows(1.0, 1.0)[:2], "a processor, 2 cores, load 0.1")
    last = read_csv(path)
    here, there = "a processor, 2 cores, load 3", "another, 2 cores"
    assert slower(rows(1.2, 1.2), last, here) == []
    assert slower(rows(2.0, 2.0), last, there) == []  # a slower machine, the same ratio
    [line] = slower(rows(2.0, 2.0), last, here)
    assert "a, alone: 2000 ms, was 1000" in line
    [line] = slower(rows(1.0, 0.5), last, there)
    assert "beside a peer: 0.500 of other, was 1.00" in line
    assert len(slower(rows(2.0, 1.0), last, here)) == 2
    assert slower(rows(9.0, 1.0), [], here) == read_csv(tmp_path / "none.csv") == []


def test_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n\n<!-- table -->\nold\n<!-- end of the table -->\n\nafter\n")
    rows = [
        Row("faces", "one", "faces/s", 10, (1.0,)),
        Row("metrics", "psnr", "pairs/s", 10, (1.0,), "scikit-image", (0.5,), note="same images"),
    ]
    for _ in range(2):
        write_page(page, rows, "a machine", "2030-01-02")
        text = page.read_text()
        assert text.startswith("# Speed\n\n<!-- table -->\n") and text.endswith("\n\nafter\n")
        assert "old" not in text and text.count("| psnr (1) | 10.0 | pairs/s |") == 1
        assert "2030-01-02. a machine." in text and "(1) same images" in text


def test_unknown_group_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "facez"])
    assert "facez" in capsys.readouterr().err
