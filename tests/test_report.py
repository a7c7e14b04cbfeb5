import csv
import json
import math
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from safetensors.numpy import save_file

from frcore.config import Figure, Protocol, load_config
from frcore.metrics import score
from frcore.metrics.intervals import bootstrap_interval, mean_of_images, resample_counts
from frcore.registry import METRICS, MetricRow
from frcore.report import figures, panels
from frcore.report.cells import Cell, Row, Table, Tables, split_columns
from frcore.report.page import _tables_html, html_report
from frcore.report.scores import PUBLISHED, join_scores
from frcore.report.tables import PRINTED_HIGHER_IS_BETTER
from frcore.report.writers import comparison
from frcore.stages.report import model_facts
from frcore.workflow.job import Files
from frcore.workflow.jobs import PanelOfStrengths

SHARED = {"min_side": 1, "needs_truth": True, "assets": ()}
TOY = {
    "t_up": MetricRow("Up", "image", higher_is_better=True, unit="dB", what="a", **SHARED),
    "t_down": MetricRow("Down", "image", higher_is_better=False, unit="", what="b", **SHARED),
    "t_plain": MetricRow("Plain", "image", higher_is_better=None, unit="", what="c", **SHARED),
    "t_set": MetricRow("Set", "set", higher_is_better=False, unit="", what="d", **SHARED),
}
MODELS = {name: {"method": "bicubic", "seed": 3} for name in ("a", "b", "c")}
TITLES = {"c": "Cee", "a": "Ay", "b": "Bee"}


@pytest.fixture(autouse=True)
def toy_metrics(monkeypatch):
    for name, row in TOY.items():
        monkeypatch.setitem(METRICS, name, row)


def protocol(*metrics, **more):
    return Protocol(title="toy", metrics=metrics, **more)


def write(root, model, values, sets=None, dataset="d", degradation="g"):
    """Score files of one cell; values: metric -> {id: number or reason}."""
    path = root / model / dataset / f"{degradation}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["id", "metric", "value", "note"])
        for metric, by_id in values.items():
            for name, value in by_id.items():
                text = isinstance(value, str)
                rows.writerow([name, metric, "" if text else value, value if text else ""])
    with open(path.with_suffix(".sets.csv"), "w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["metric", "value", "n", "ci_low", "ci_high", "note"])
        rows.writerows(sets or [])
    return path


def join(root, files, proto, **more):
    out = root / "scores.csv"
    more.setdefault("models", MODELS)
    join_scores(files, protocol=proto, protocol_name="toy", out=out, **more)
    return pd.read_csv(out, dtype=str, keep_default_na=False)


def tables(root, titles=TITLES):
    paths = [root / f"comparison.{kind}" for kind in ("csv", "md", "tex")]
    comparison(root / "scores.csv", *paths, titles)
    return [path.read_text(encoding="utf-8") for path in paths]


def ids(values):
    return {f"i{index:02d}": value for index, value in enumerate(values)}


# ---- the long table ----------------------------------------------------------------------------


def test_mean_by_hand_and_every_column(tmp_path):
    path = write(tmp_path, "a", {"t_up": ids([1.0, 2.0, 6.0])}, [["t_set", 4.5, 3, 4, 5, "few"]])
    table = join(tmp_path, [path], protocol("t_up", "t_set"))
    assert list(table.columns) == [
        "model", "method", "dataset", "degradation", "protocol", "metric", "value", "n", "ci_low",
        "ci_high", "seed", "source", "note", "model_note",
    ]  # fmt: skip
    up, whole = table.to_dict("records")
    assert (up["value"], up["n"], up["seed"], up["source"]) == ("3", "3", "3", "measured")
    assert re.fullmatch("toy@[0-9a-f]{12}", up["protocol"])
    assert 1 <= float(up["ci_low"]) < 3 < float(up["ci_high"]) <= 6
    assert [whole[key] for key in ("value", "n", "ci_low", "ci_high", "note")] == [
        "4.5", "3", "4", "5", "few",
    ]  # fmt: skip


def test_interval_of_a_constant_is_the_constant(tmp_path):
    path = write(tmp_path, "a", {"t_up": ids([0.1] * 7)})
    row = join(tmp_path, [path], protocol("t_up")).iloc[0]
    assert (row["value"], row["ci_low"], row["ci_high"]) == ("0.1", "0.1", "0.1")


def test_interval_agrees_with_theory():
    values = np.random.default_rng(1).normal(size=400)
    counts = resample_counts(400, 4000, "x")
    low, high = bootstrap_interval(values, counts)
    expected = 1.96 * values.std() / 20
    assert abs((high - low) / 2 - expected) < 0.05 * expected
    assert (counts.sum(1) == 400).all() and counts.shape == (4000, 400)


def test_models_share_their_draws(tmp_path):
    """b = a + 1 on every image, so the ends of the intervals differ by exactly 1."""
    values = np.random.default_rng(2).normal(size=30).round(4)
    files = [
        write(tmp_path, "a", {"t_up": ids(values)}),
        write(tmp_path, "b", {"t_up": dict(reversed(ids(values + 1).items()))}),
    ]
    table = join(tmp_path, files, protocol("t_up")).set_index("model").astype(str)
    for end in ("ci_low", "ci_high"):
        assert float(table[end]["b"]) - float(table[end]["a"]) == pytest.approx(1, abs=2e-5)


def test_interval_does_not_depend_on_other_models_but_on_the_seed(tmp_path):
    values = np.random.default_rng(3).normal(size=30)
    files = [write(tmp_path, name, {"t_up": ids(values * k)}) for k, name in enumerate("ab", 1)]
    both = join(tmp_path, files, protocol("t_up"))
    alone = join(tmp_path, files[:1], protocol("t_up"))
    other = join(tmp_path, files[:1], protocol("t_up"), seed=1)
    assert both.iloc[0].equals(alone.iloc[0])
    assert alone["value"][0] == other["value"][0]
    assert alone["ci_low"][0] != other["ci_low"][0]


def test_bytes_do_not_depend_on_order(tmp_path):
    rng = np.random.default_rng(4)
    files = [
        write(tmp_path, m, {"t_up": ids(rng.normal(size=9))}, dataset=d, degradation=g)
        for m in MODELS
        for d in "xy"
        for g in "gh"
    ]
    join(tmp_path, files, protocol("t_up"))
    first = (tmp_path / "scores.csv").read_bytes()
    for path in files:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    join(tmp_path, files[::-1], protocol("t_up"), models=dict(reversed(MODELS.items())))
    assert (tmp_path / "scores.csv").read_bytes() == first
    assert len(first.splitlines()) == 1 + len(files)


def test_failed_images_are_counted_and_never_averaged_in(tmp_path):
    values = {"t_up": ids([1.0, "no face", 3.0, "no face", "not a number"])}
    row = join(tmp_path, [write(tmp_path, "a", values)], protocol("t_up")).iloc[0]
    assert (row["value"], row["n"]) == ("2", "2")
    assert row["note"] == "3 of 5 images without a value: no face (2); not a number (1)"


def test_an_image_only_another_model_has_counts_as_failed(tmp_path):
    files = [
        write(tmp_path, "a", {"t_up": {"i0": 1.0, "i1": 2.0}}),
        write(tmp_path, "b", {"t_up": {"i0": 1.0}}),
    ]
    row = join(tmp_path, files, protocol("t_up")).set_index("model").loc["b"]
    assert row["note"] == "1 of 2 images without a value: not in the score file (1)"


def test_what_cannot_be_had_is_empty_with_its_reason(tmp_path):
    path = write(
        tmp_path,
        "a",
        {"t_up": ids(["no truth"] * 3)},
        [["t_set", "", "", "", "", "no weights"]],
    )
    models = {"a": MODELS["a"] | {"note": "init scratch"}}
    table = join(tmp_path, [path], protocol("t_up", "t_down", "t_set"), models=models)
    assert list(table["value"]) == [""] * 3 and list(table["ci_low"]) == [""] * 3
    assert list(table["note"]) == ["no truth", "not in the score file", "no weights"]
    assert list(table["model_note"]) == ["init scratch"] * 3


def test_notes_of_a_cell_stand_beside_those_of_its_model(tmp_path):
    paths = [write(tmp_path, m, {"t_up": ids([1.0, 2.0])}) for m in "ab"]
    models = MODELS | {"a": MODELS["a"] | {"note": "init scratch"}}
    notes = {("a", "d", "g"): "20 iterations a face", ("b", "d", "g"): "resized"}
    table = join(tmp_path, paths, protocol("t_up"), models=models, cell_notes=notes)
    assert list(table["model_note"]) == ["init scratch; 20 iterations a face", "resized"]


def test_the_command_line_and_the_workflow_have_one_mean_and_interval(tmp_path):
    """Infinite values are left out and counted in both, and the draws are the same."""
    values = {"i00": math.inf, "i01": 20.0, "i02": 30.0, "i03": 31.0, "i04": None, "i05": 25.0}
    written = {"t_up": {k: "no face" if v is None else v for k, v in values.items()}}
    path = write(tmp_path, "a", written)
    path.write_text(path.read_text().replace(",,inf", ",inf,"))
    [row] = join(tmp_path, [path], protocol("t_up", bootstrap=200), seed=5).to_dict("records")
    rows = [
        {"id": k, "metric": "t_up", "value": v, "note": "" if v is not None else "no face"}
        for k, v in values.items()
    ]
    [ours] = score.summarise(rows, 5, 200, ("d", "g"))
    assert (row["value"], row["n"]) == (f"{ours['value']:.6g}", str(ours["n"])) == ("26.5", "4")
    assert (row["ci_low"], row["ci_high"]) == (f"{ours['ci_low']:.6g}", f"{ours['ci_high']:.6g}")
    assert row["note"] == ours["note"]
    assert "1 images with an infinite value left out" in row["note"]
    counts = resample_counts(6, 200, 5, "d", "g", "t_up")
    assert mean_of_images(rows, list(values), counts)["n"] == 4


def test_infinite_values(tmp_path):
    some = write(tmp_path, "a", {"t_up": ids([20.0, "inf", 30.0])})
    some.write_text(some.read_text().replace(",,inf", ",inf,"))
    every = write(tmp_path, "b", {"t_up": ids([float("inf")] * 3)})
    a, b = join(tmp_path, [some, every], protocol("t_up")).to_dict("records")
    assert (a["value"], a["n"]) == ("25", "2")
    assert a["note"] == "1 images with an infinite value left out of the mean"
    assert (b["value"], b["n"], b["ci_low"]) == ("inf", "3", "")
    assert "every image equals its truth" in b["note"]
    assert "| Bee<sup>" not in tables(tmp_path)[1] and "| ∞" in tables(tmp_path)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("t_up", "t_upp"), "metric t_upp .*did you mean 't_up'"),
        (lambda text: text + "i00,t_up,2,\n", "repeated"),
        (lambda text: text.replace("note", "remark"), "no column note"),
    ],
)
def test_strange_score_files_are_errors(tmp_path, change, message):
    path = write(tmp_path, "a", {"t_up": ids([1.0])})
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        join(tmp_path, [path], protocol("t_up"))


def test_wrong_arguments_are_errors(tmp_path):
    path = write(tmp_path, "a", {"t_up": ids([1.0])})
    with pytest.raises(ValueError, match="twice"):
        join(tmp_path, [path, path], protocol("t_up"))
    with pytest.raises(ValueError, match="unknown models"):
        join(tmp_path, [path], protocol("t_up"), models={"b": MODELS["b"]})
    with pytest.raises(ValueError, match="source 'published'"):
        join(
            tmp_path, [path], protocol("t_up"), models={"a": MODELS["a"] | {"source": "published"}}
        )
    with pytest.raises(ValueError, match="no published table 'LCQS T11'.*LCQS T1"):
        join(tmp_path, [path], protocol("t_up"), published=["LCQS T11"])
    path.with_suffix(".sets.csv").unlink()
    with pytest.raises(FileNotFoundError):
        join(tmp_path, [path], protocol("t_up", "t_set"))


# ---- published numbers -------------------------------------------------------------------------


def test_published_csv_is_whole():
    table = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    counts = table.groupby(["paper", "table"]).size().to_dict()
    assert counts == {
        ("DL-ST", "T1"): 6, ("DL-ST", "T2"): 30, ("DL-ST", "T3"): 12, ("DL-ST", "T4"): 12,
        ("LCQS", "T1"): 63, ("LCQS", "T2"): 12,
        ("PSFR-GAN", "T1"): 48, ("PSFR-GAN", "T2"): 4, ("PSFR-GAN", "text 5.4"): 2,
        ("RDFR", "T1"): 110, ("RDFR", "T2"): 16, ("RDFR", "T3"): 16,
        ("SAIR", "T1"): 24, ("SAIR", "text 3"): 1,
    }  # fmt: skip
    key = ["paper", "table", "method", "dataset", "degradation", "metric"]
    assert not table.duplicated(key).any()
    assert (table["value"] == "").sum() == 20
    assert table.loc[table["value"] == "", "note"].str.contains("not reported").all()
    table["value"].replace("", "0").astype(float)
    assert set(table["metric"]) == set(PRINTED_HIGHER_IS_BETTER)
    # RDFR quotes its x8 numbers twice; the gain over PSFRGAN that LCQS claims follows from T1
    cell = table.set_index(key)["value"]
    at = ("RDFR", "CelebA-HQ (3k)", "SRx8", "PSNR")
    for method in ("GPEN", "RDFR"):
        first, second = (cell[at[0], t, method, *at[1:]] for t in ("T1", "T2"))
        assert first == second
    lpips = [
        float(cell["LCQS", "T1", m, "CelebA-HQ (967)", "BicN (moderate)", "LPIPS"])
        for m in ("PSFRGAN", "LCQS")
    ]
    assert 1 - lpips[1] / lpips[0] == pytest.approx(0.020, abs=5e-4)


def test_published_rows_keep_their_digits_and_are_never_ranked(tmp_path):
    files = [write(tmp_path, name, {"t_up": ids([k, k + 0.5])}) for k, name in enumerate(MODELS, 1)]
    table = join(tmp_path, files, protocol("t_up"), published=["LCQS T1", "SAIR"])
    rows = table[table["source"] == "published"]
    assert len(rows) == 63 + 25 and set(rows["protocol"]) == {"as printed"}
    assert rows[rows["note"].str.startswith("SAIR T1")]["value"].iloc[0] == "252.1"
    assert "0.680" in set(rows["value"]) and set(rows["n"]) == {""}
    text, md, tex = tables(tmp_path)
    assert "**3.25** ±" in md and "\\textbf{3.25}" in tex
    printed = [line for line in md.splitlines() if "†" in line and line.startswith("|")]
    assert len(printed) == 7 + 8 + 1
    for line in printed:
        assert "**" not in line and "<ins>" not in line
    after = tex[tex.index("LCQS T1, as printed") :]
    assert "textbf" not in after and "underline" not in after and "\\cmidrule(lr){2-4}" in after
    assert "LCQS,published,0.684,0.139" in text


# ---- tables for print --------------------------------------------------------------------------


def rows_of(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_marks_follow_the_direction(tmp_path):
    level = {"a": 1.0, "b": 2.0, "c": 3.0}
    files = [
        write(tmp_path, m, {t: ids([v, v]) for t in ("t_up", "t_down", "t_plain")})
        for m, v in level.items()
    ]
    join(tmp_path, files, protocol("t_up", "t_down", "t_plain"))
    _, md, tex = tables(tmp_path)
    head, _, c, a, b = rows_of(md)
    assert head == ["model", "Up ↑", "Down ↓", "Plain"]
    assert c == ["Cee", "**3.00** ± 0.00", "3.00 ± 0.00", "3.00 ± 0.00"]
    assert a == ["Ay", "1.00 ± 0.00", "**1.00** ± 0.00", "1.00 ± 0.00"]
    assert b == ["Bee", "<ins>2.00</ins> ± 0.00", "<ins>2.00</ins> ± 0.00", "2.00 ± 0.00"]
    assert tex.count("\\textbf{") == 2 and tex.count("\\underline{") == 2
    for text in (md, tex):
        assert "seed 3" in text and "n = 2" in text and re.search("toy@[0-9a-f]{12}", text)


def test_a_share_of_1_keeps_three_digits(tmp_path):
    files = [write(tmp_path, m, {"t_up": ids([v, v])}) for m, v in (("a", 1.0), ("b", 0.9943))]
    join(tmp_path, files, protocol("t_up"))
    _, md, _ = tables(tmp_path)
    assert "| **1.000** ± 0.000 |" in md and "| <ins>0.994</ins> ± 0.000 |" in md


def test_wide_tables_break_into_parts_of_like_width():
    def table(n, published=False):
        columns = [(f"metric {i}", "", ()) for i in range(n)]
        row = Row("Bicubic", "", [Cell(f"value {i}") for i in range(n)])
        return Table("", [], columns, [row], published)

    def widths(table, most):
        return [len(table.columns[part]) for part in split_columns(table, most)]

    assert widths(table(15), 7) == [5, 5, 5] and widths(table(15), 11) == [8, 7]
    assert widths(table(11), 11) == [11] and widths(table(0), 7) == [0]
    assert widths(table(15, published=True), 7) == [15]
    page = _tables_html(Tables([table(15)]))
    assert page.count("<figure") == 1 and page.count("<table") == page.count("Bicubic") == 2
    places = [page.index(f"value {i}<") for i in range(15)]
    assert places == sorted(places)


def test_equal_digits_share_a_mark(tmp_path):
    files = [
        write(tmp_path, m, {"t_up": ids([v, v])})
        for m, v in {"a": 2.001, "b": 2.002, "c": 1}.items()
    ]
    join(tmp_path, files, protocol("t_up"))
    md = tables(tmp_path)[1]
    assert md.count("**2.00**") == 2 and "<ins>" not in md


def test_a_mean_over_fewer_images_is_not_ranked(tmp_path):
    files = [
        write(tmp_path, "a", {"t_up": ids([9.0, "too dark"])}),
        write(tmp_path, "b", {"t_up": ids([2.0, 2.0])}),
        write(tmp_path, "c", {"t_up": ids([1.0, 1.0])}),
    ]
    join(tmp_path, files, protocol("t_up"))
    md = tables(tmp_path)[1]
    assert "| Ay | 9.00<sup>1</sup> |" in md and "**2.00**" in md and "<ins>1.00</ins>" in md
    assert "1. mean over 1 of 2 images, not ranked: 1 of 2 images without a value: too dark" in md


def test_missing_cells_and_columns_say_why(tmp_path):
    files = [
        write(tmp_path, "a", {"t_up": ids([1.0, 2.0]), "t_down": ids(["no weights"] * 2)}),
        write(tmp_path, "b", {"t_up": ids(["gone"] * 2), "t_down": ids(["no weights"] * 2)}),
    ]
    join(tmp_path, files, protocol("t_up", "t_down"))
    text, md, tex = tables(tmp_path)
    assert "| Bee | –<sup>1</sup> |" in md and "1. gone" in md
    assert "- Down: no weights" in md and "Down ↓" not in md
    assert "Bee & --$^{1}$" in tex and "Down: no weights." in tex
    assert "Bee,measured,–" in text


def test_source_and_note_of_a_model_are_shown_with_its_row(tmp_path):
    files = [write(tmp_path, m, {"t_up": ids([1.0, 2.0])}) for m in "ab"]
    models = MODELS | {"a": MODELS["a"] | {"source": "official_weights", "note": "weights x.pth"}}
    join(tmp_path, files, protocol("t_up"), models=models)
    text, md, _ = tables(tmp_path)
    assert "| Ay (official weights)<sup>1</sup> |" in md and "1. weights x.pth" in md
    assert "measured and official weights" in md
    assert "Ay,official weights,1.50" in text and "Bee,measured,1.50" in text


def test_equal_titles_get_the_name_of_the_entry(tmp_path):
    join(
        tmp_path,
        [write(tmp_path, m, {"t_up": ids([1.0, 2.0])}) for m in "ab"],
        protocol("t_up"),
    )
    md = tables(tmp_path, {"a": "Same", "b": "Same"})[1]
    assert "| Same (a) |" in md and "| Same (b) |" in md


def test_hostile_names_stay_text(tmp_path):
    title = r"<img src=x>|a_b & 50% $x^2$ \input{z} *c* #1 ~"
    path = write(tmp_path, "a", {"t_up": ids([1.0, "<script>alert(1)</script> {x}_&"])})
    join(tmp_path, [path], protocol("t_up"))
    _, md, tex = tables(tmp_path, {"a": title})
    row = next(line for line in md.splitlines() if line.startswith("| &lt;img"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "<img" not in md and "<script" not in md and r"\*c\*" in md and r"a\_b" in md
    assert r"\textbackslash{}input\{z\}" in tex
    assert (
        r"\textless{}img src=x\textgreater{}\textbar{}a\_b \& 50\% \$x\textasciicircum{}2\$" in tex
    )
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")


# ---- figures -----------------------------------------------------------------------------------


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def test_panel_places_faces_and_crosses_out_what_is_missing(tmp_path):
    rng = np.random.default_rng(5)
    made = {}
    for column in ("low", "net"):
        (tmp_path / column).mkdir()
        for name in ("p", "q"):
            made[column, name] = rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(made[column, name]).save(tmp_path / column / f"{name}.png")
    (tmp_path / "net" / "q.png").unlink()
    columns = [("Degraded", tmp_path / "low"), ("A net", tmp_path / "net")]
    missing = panels.panel(["p", "q"], columns, tmp_path / "p.png", "Two faces.")
    assert missing == [("q", "A net")]
    sheet = pixels(tmp_path / "p.png").astype(int)

    def position(face):
        big = face.repeat(2, 0).repeat(2, 1)
        spots = [
            (y, x)
            for y, x in zip(*np.where((sheet[:-127, :-127] == big[0, 0]).all(-1)))
            if (sheet[y : y + 128, x : x + 128] == big).all()
        ]
        assert len(spots) == 1
        return spots[0]

    p, q, restored = (position(made[key]) for key in (("low", "p"), ("low", "q"), ("net", "p")))
    assert p[0] == restored[0] and p[1] == q[1] and p[0] < q[0] and p[1] < restored[1]
    box = sheet[q[0] : q[0] + 128, restored[1] : restored[1] + 128]
    assert (box[0] == 0xB0).all() and (box[:, 0] == 0xB0).all()  # outline
    assert (box[20, 20] == 0xB0).all() and (box[20, 107] == 0xB0).all()  # both diagonals
    assert ((box[..., 0] > box[..., 1] + 60).sum()) > 20  # the red word


def test_panel_bytes_and_large_faces(tmp_path):
    Image.new("RGB", (512, 512), "red").save(tmp_path / "p.png")
    for out in ("one", "two"):
        panels.panel(["p", "lost"], [("A", tmp_path)], tmp_path / f"{out}.jpg.png")
    first = (tmp_path / "one.jpg.png").read_bytes()
    assert first == (tmp_path / "two.jpg.png").read_bytes()
    assert (pixels(tmp_path / "one.jpg.png") == (255, 0, 0)).all(-1).sum() == panels.TILE_MAX**2


def test_panel_of_strengths_has_a_row_for_each_degradation(tmp_path):
    """Run as the rule does: flat colours tell where every picture comes from."""
    colours, count = {}, iter(range(1, 255))
    for i in ("p", "q"):
        for place in ("degraded/d/weak", "degraded/d/strong", "restored/m/d/weak",
                      "restored/m/d/strong", "restored/n/d/weak", "faces/d/0000"):  # fmt: skip
            colours[place, i] = (next(count), 7, 9)
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), colours[place, i]).save(tmp_path / place / f"{i}.png")
    (tmp_path / "degraded" / "d" / "weak.csv").write_text("id\np\nz\nq\nz\n")
    (tmp_path / "faces" / "d.csv").write_text("id,shard,split\np,0000,test\nq,0000,test\n")
    figure = Figure(dataset="d", degradations=["weak", "strong"], models=["m", "n"], faces=2)
    script = ROOT / "workflow_scripts" / "panel_of_strengths.py"
    drawn = [tmp_path / "degraded" / "d" / f"{name}.csv" for name in ("weak", "strong")]
    for out, true in (("s.png", [tmp_path / "faces" / "d.csv"]), ("unknown.png", [])):
        job = PanelOfStrengths(
            figure=figure,
            titles={"m": "The same", "n": "The same"},
            results=str(tmp_path),
            input=Files(drawn=drawn, truth=true),
            output=Files(picture=tmp_path / out),
        )
        subprocess.run([sys.executable, script, job.argument()], check=True, cwd=ROOT)
    sheet = pixels(tmp_path / "s.png")
    # where nobody knows the true faces there is no column for them
    assert sheet.shape[1] - pixels(tmp_path / "unknown.png").shape[1] == 128 + 8

    def places(colour):
        """Upper left corners of the tiles of this colour."""
        mask = (sheet == colour).all(-1)
        corners = mask & ~np.roll(mask, 1, 0) & ~np.roll(mask, 1, 1)
        assert mask.sum() == 128**2 * corners.sum()
        return {tuple(place) for place in np.argwhere(corners).tolist()}

    corner = {key: places(colour) for key, colour in colours.items()}
    rows = [next(iter(corner[f"degraded/d/{g}", i]))[0] for i in "pq" for g in ("weak", "strong")]
    assert rows == sorted(rows) and len(set(rows)) == 4  # face by face, weak before strong
    for i, (weak, strong) in {"p": rows[:2], "q": rows[2:]}.items():
        assert {y for y, _ in corner["faces/d/0000", i]} == {weak, strong}  # one truth for both
        (_, left), (_, m), (y, n) = (
            next(iter(corner[f"{place}/d/weak", i]))
            for place in ("degraded", "restored/m", "restored/n")
        )
        assert left < m < n < next(iter(corner["faces/d/0000", i]))[1] and y == weak
        box = sheet[strong : strong + 128, n : n + 128]  # not restored: crossed out
        assert (box[0] == 0xB0).all() and ((box[..., 0] > box[..., 1].astype(int) + 60).sum()) > 20


def test_plot_scores_draws_every_model_and_is_reproducible(tmp_path):
    files = [
        write(tmp_path, m, {"t_up": ids(v)}, dataset=d)
        for d in ("x", "y")
        for m, v in {"a": [1.0, 2.0], "b": [2.0, 3.0], "c": ["gone", "gone"]}.items()
    ]
    join(tmp_path, files, protocol("t_up", "t_down"))
    for out in ("1", "2"):
        paths = (tmp_path / f"{out}.png", tmp_path / f"{out}.svg")
        figures.plot_scores(tmp_path / "scores.csv", "t_up", *paths, TITLES)
    svg = (tmp_path / "1.svg").read_text()
    for text in ("Up, dB", "higher is better", "x · g", "y · g", "Ay", "Bee", "Cee", ">–<"):
        assert text in svg
    for kind in ("png", "svg"):
        assert (tmp_path / f"1.{kind}").read_bytes() == (tmp_path / f"2.{kind}").read_bytes()
    figures.plot_scores(tmp_path / "scores.csv", "t_down", tmp_path / "3.png", tmp_path / "3.svg")
    assert "no value (not in the score file)" in (tmp_path / "3.svg").read_text()
    with pytest.raises(ValueError, match="no measured t_upp"):
        figures.plot_scores(tmp_path / "scores.csv", "t_upp", tmp_path / "4.png")


def test_plot_training_has_a_panel_per_term(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("images,seconds,l1,gan\n16,1,3,\n32,2,2,1\n48,3,1,2\n")
    (tmp_path / "b.csv").write_text("images,l1,never\n16,3,\n32,2,\n")
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, *paths: drawn.append(figure))
    figures.plot_training({"A": tmp_path / "a.csv", "B": tmp_path / "b.csv"}, tmp_path / "t.png")
    axes = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert [axis.get_title(loc="left").strip() for axis in axes] == ["l1", "gan", "l1"]
    assert axes[1].lines[0].get_xydata().tolist() == [[32, 1], [48, 2]]
    assert {axis.get_xlabel() for axis in axes} == {"images seen"}
    (tmp_path / "c.csv").write_text("images,l1\n")
    with pytest.raises(ValueError, match="no history"):
        figures.plot_training({"C": tmp_path / "c.csv"}, tmp_path / "t.png")


# ---- the page ----------------------------------------------------------------------------------


class Tags(HTMLParser):
    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.seen, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


EVIL = '<script src="https://evil.example/x.js">"&amp;'


@pytest.fixture
def page(tmp_path):
    models = {"a": {"method": "bicubic", "title": "Ay"}, "b": {"method": "bicubic", "title": EVIL}}
    config = load_config(
        {
            "seed": 5,
            "datasets": {"d": {"source": "orl", "licence": EVIL}},
            "degradations": {
                "g": {
                    "size": 64,
                    "description": "Shrunk",
                    "steps": [
                        {"kind": "down", "factor": [8, 8], "filters": ["bicubic", "area"]},
                        {"kind": "jpeg", "p": 0.25, "quality": [30, 95]},
                        {"kind": "up", "filter": "bicubic"},
                    ],
                }
            },
            "models": models,
            "run": {
                "datasets": ["d"],
                "degradations": ["g"],
                "models": ["a", "b"],
                "protocol": "t",
            },
        }
    )
    proto = protocol("t_up", "t_down", bootstrap=50, note="A toy.")
    files = [
        write(tmp_path, "a", {"t_up": ids([1.0, 2.0]), "t_down": ids(["no weights"] * 2)}),
        write(tmp_path, "b", {"t_up": ids([1.0, EVIL]), "t_down": ids(["no weights"] * 2)}),
    ]
    join(tmp_path, files, proto, published=["SAIR T1"])
    (tmp_path / "faces.csv").write_text(
        "id,person,split\ni00,p,test\ni01,p,test\ni02,q,train\ni03,,train\n"
    )
    with open(tmp_path / "quarantine.csv", "w", newline="") as opened:
        rows = [
            ["id", "photo", "person", "reason", "value"],
            ["x", f"{EVIL}.jpg", "", "no face", ""],
        ]
        csv.writer(opened).writerows(
            rows + [[f"y{n}", f"{n}.jpg", "", "small", ""] for n in range(50)]
        )
    card = {"images_seen": 12345, "images_seen_here": 345, "parameters": 6789, "init": EVIL}
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "licences.md").write_text(
        "# Assets\n\n| asset | licence |\n|---|:--|\n| `n` | MIT \\| BSD |\n\nhttps://a.example\n"
    )
    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.png")
    Image.new("RGB", (900, 300), "red").save(tmp_path / "plot.png", dpi=(150, 150))

    def make(**more):
        html_report(
            config,
            proto,
            "t",
            tmp_path / "scores.csv",
            tmp_path / "report.html",
            faces={"d": tmp_path / "faces.csv"},
            quarantine={"d": tmp_path / "quarantine.csv"},
            cards={"a": tmp_path / "card.json"},
            sheets={"g": tmp_path / "p.png"},
            licences=tmp_path / "licences.md",
            figures={"scores": [(tmp_path / "plot.png", f"Dots {EVIL}")]} | more,
        )
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return make


def test_page_fetches_and_runs_nothing(page):
    text = page()
    tags = Tags(text)
    assert not tags.open  # everything that was opened was closed, in order
    assert not {tag for tag, _ in tags.seen} & {
        "script",
        "link",
        "iframe",
        "object",
        "base",
        "form",
    }
    for tag, attributes in tags.seen:
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            assert tag == "img" and attributes["src"].startswith("data:image/png;base64,")
        if "href" in attributes:
            assert attributes["href"].startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    anchors = {attributes["id"] for _, attributes in tags.seen if "id" in attributes}
    links = {attributes["href"][1:] for _, attributes in tags.seen if "href" in attributes}
    assert links and links <= anchors
    assert page() == text  # the same inputs, the same bytes


def test_page_says_what_was_run_and_what_failed(page):
    tags = Tags(page())
    words = " ".join(" ".join(tags.words).split())
    for text in (
        "t@", "A toy.", "5: all randomness", "down : factor 8, filters bicubic or area",
        "jpeg with probability 0.25: quality 30 to 95", "12,345 (345 in this run)", "6,789",
        "1 of 2 images without a value", "no weights", "50", "… and 11 more", "MIT | BSD",
        "252.1", "no evidence", f"{EVIL}.jpg",
    ):  # fmt: skip
        assert text in words, text
    sizes = [attributes["style"] for tag, attributes in tags.seen if tag == "img"]
    assert sizes == ["width:600px", "width:640px;image-rendering:pixelated"]
    with pytest.raises(ValueError, match="did you mean 'panels'"):
        page(panel=[])


def test_page_counts_the_data(page):
    table = re.search(r'<section id="data">.*?</table>', page(), re.S)[0]
    cells = re.findall(r"<td>(.*?)</td>", table)
    assert cells[:7] == ["orl, 64 px", "4", "2", "2", "0", "2", "51"]


def test_report_imports_no_torch():
    modules = "frcore.report.figures, frcore.stages.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---- the rows' models --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "source"),
    [
        ({"name": "mine", "method": "psfr_gan"}, "measured"),
        ({"method": "psfr_gan", "source": "official_weights"}, "official_weights"),
        (None, "official_weights"),
    ],
)
def test_only_weights_of_the_authors_are_official(tmp_path, card, source):
    path = tmp_path / "mine.safetensors"
    tensors = {"net/key": np.zeros((2, 3), np.float32)}
    save_file(tensors, path, metadata=card and {"card": json.dumps(card)})
    assert facts_of(path) == {
        "method": "psfr_gan", "seed": 7, "source": source, "note": "weights mine.safetensors",
    }  # fmt: skip


def header(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"PK\x03\x04" + bytes(range(256)),  # torch.save's archive
        header(b'{"a": 1}\xff'),
        header(b"[]"),
        header(b'{"__metadata__": null}'),
        header(b'{"__metadata__": {"card": "[1]"}}'),
    ],
)
def test_weights_in_another_format_have_no_card(tmp_path, content):
    path = tmp_path / "theirs.pth"
    path.write_bytes(content)
    assert facts_of(path)["source"] == "official_weights"


def facts_of(weights):
    return model_facts({"method": "psfr_gan", "seed": 7, "weights": str(weights)})
