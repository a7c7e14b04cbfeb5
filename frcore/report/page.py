"""The self-contained page of a run: HTML that fetches nothing and runs nothing. No torch here."""

import base64
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from frcore import __version__
from frcore.config import Config, Protocol
from frcore.metrics.intervals import NO_VALUE
from frcore.registry import METHODS, METRICS, nearest
from frcore.report.cells import Tables, split_columns
from frcore.report.scores import read_long_table
from frcore.report.tables import build_tables, row_titles

NOTICE = (
    "Restored detail is invented: it is likely, not recovered. A restored face is no evidence of "
    "what a person looked like and must not be used to identify anyone."
)
FIGURE_KINDS = ("scores", "panels", "training")
PAGE_COLUMNS = 11  # of a table of scores that fit the page side by side
_CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
LISTED = 40  # rows of a failure list that are written out; the rest is counted


def html_report(
    config: Config,
    protocol: Protocol,
    protocol_name: str,
    scores_csv: str | Path,
    out: str | Path,
    *,
    faces: Mapping[str, str | Path] | None = None,
    quarantine: Mapping[str, str | Path] | None = None,
    cards: Mapping[str, str | Path] | None = None,
    sheets: Mapping[str, str | Path] | None = None,
    figures: Mapping[str, Sequence[tuple[str | Path, str]]] | None = None,
    licences: str | Path | None = None,
    command: str = "",
) -> None:
    """Write one self-contained page: what was run, on what, what came out and what failed.

    faces, quarantine: dataset -> faces.csv and quarantine.csv. cards: model -> weights.json.
    sheets: degradation -> contact sheet (PNG). figures: "scores", "panels" and "training" -> list
    of (PNG, caption). licences: Markdown with the table of assets. command: how to run it again.
    Pictures are embedded; nothing is fetched and no script runs. The same inputs give the same
    bytes. Raises ValueError for an unknown kind of figure.
    """
    figures = dict(figures or {})
    for kind in figures:
        if kind not in FIGURE_KINDS:
            raise ValueError(f"unknown kind of figure {kind!r} {nearest(kind, FIGURE_KINDS)}")
    scores = read_long_table(scores_csv)
    ours = scores[scores["source"] != "published"]
    titles = row_titles(ours, {m: _title_of(config, m) for m in config.run.models})
    read = {
        name: json.loads(Path(p).read_text(encoding="utf-8")) for name, p in (cards or {}).items()
    }
    tables = build_tables(scores, titles)
    rejected = {
        name: pd.read_csv(path, dtype=str, keep_default_na=False)
        for name, path in (quarantine or {}).items()
    }
    pictures = _figures_html(figures.get("panels"))
    sections = [
        ("run", "What was run", _run_html(config, protocol, protocol_name, command)),
        ("results", "Results", _tables_html(tables)),
        ("plots", "Scores with intervals", _figures_html(figures.get("scores"))),
        ("faces", "Faces side by side", pictures and f'<p class="caption">{NOTICE}</p>{pictures}'),
        ("data", "Data", _datasets_html(config, faces or {}, rejected)),
        ("degradations", "Degradations", _degradations_html(config, sheets or {})),
        ("models", "Models", _models_html(config, titles, read)),
        ("training", "Training", _figures_html(figures.get("training"))),
        ("failures", "What failed or was left out", _failures_html(ours, titles, rejected)),
        ("licences", "Licences", _markdown_html(Path(licences)) if licences else ""),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in sections
    )
    facts = _facts_html(config, ours, rejected)
    name = _esc(protocol.title)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # nothing may be fetched even if a name in the data got through as markup
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Face restoration: {name}</title><style>{_CSS}</style></head><body>"
        f'<header><p class="kind">Face restoration report</p><h1>{name}</h1>'
        f'<p class="lead">Every number on this page was measured under protocol '
        f"<code>{_esc(protocol_name)}@{protocol.digest()}</code>, unless it is marked as "
        f"published.</p>{facts}</header>"
        f'<div class="page"><nav aria-label="Contents"><ol>{links}</ol></nav><main>{body}</main>'
        f"</div><footer><p>{NOTICE}</p><p>frcore {_esc(__version__)}</p></footer></body></html>\n"
    )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(page, encoding="utf-8", newline="\n")


def _title_of(config: Config, model: str) -> str:
    entry = config.models[model]
    return entry.title or METHODS[entry.method].title


def _esc(value) -> str:
    return html.escape(str(value))


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table in its own scrolling box; the cells are HTML already. "" without rows."""
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    if not body:
        return ""
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str]) -> str:
    first, *others = row
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)


def _facts_html(config: Config, ours: pd.DataFrame, rejected: Mapping) -> str:
    counts = [int(n) for n in ours["n"].dropna()]
    missing = int(ours["value"].isna().sum())
    facts = [
        (len(config.run.models), "models"),
        (len(config.run.datasets), "datasets"),
        (len(config.first_shown()), "degradations"),
        (len(set(ours["metric"])), "metrics"),
        (max(counts, default=0), "test faces, at most"),
        (missing, "scores missing"),
        (sum(map(len, rejected.values())), "photographs quarantined"),
    ]
    items = "".join(f"<div><dt>{text}</dt><dd>{number:,}</dd></div>" for number, text in facts)
    return f'<dl class="facts">{items}</dl>'


def _run_html(config: Config, protocol: Protocol, name: str, command: str) -> str:
    metrics = _grid(
        ["Metric", "Name in the tables", "Better", "Measured on", "What it is"],
        [
            (
                _esc(METRICS[metric].title),
                f"<code>{_esc(metric)}</code>",
                {True: "higher&nbsp;↑", False: "lower&nbsp;↓", None: "–"}[
                    METRICS[metric].higher_is_better
                ],
                "each face" if METRICS[metric].kind == "image" else "the whole set",
                _esc(METRICS[metric].what),
            )
            for metric in protocol.metrics
        ],
        "text",
    )
    reference = {"truth": "the undegraded test faces", "train": "the training faces"}
    rows = [
        ("Protocol", f"<code>{_esc(name)}@{protocol.digest()}</code>"),
        ("Seed", f"{config.seed}: all randomness of this run derives from it and from names"),
        ("Face size", f"{protocol.size} px, {protocol.crop} px left out on each side"),
        ("Set distances", f"compare with {reference[protocol.reference]}"),
        (
            "Intervals",
            f"95 %, {protocol.bootstrap:,} bootstrap draws of faces, equal for all models",
        ),
        ("Models", ", ".join(f"<code>{_esc(m)}</code>" for m in config.run.models)),
        ("Datasets", ", ".join(f"<code>{_esc(d)}</code>" for d in config.run.datasets)),
        ("Degradations", ", ".join(f"<code>{_esc(d)}</code>" for d in config.first_shown())),
    ]
    if command:
        rows.append(("Run again", f"<code>{_esc(command)}</code>"))
    items = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows)
    note = f"<p>{_esc(protocol.note)}</p>" if protocol.note else ""
    return f'{note}<dl class="pairs">{items}</dl>{metrics}'


def _tables_html(built: Tables) -> str:
    text = ""
    for number, table in enumerate(built.tables, 1):
        boxes = "".join(_scores_html(table, part) for part in split_columns(table, PAGE_COLUMNS))
        text += (
            f'<figure class="table"><figcaption><b>Table {number}.</b> {_esc(table.heading)}'
            f"</figcaption>{boxes}</figure>"
        )
    notes = "".join(f'<li id="note-{n}">{_esc(t)}</li>' for n, t in enumerate(built.notes, 1))
    notes = f'<ol class="notes">{notes}</ol>' if notes else ""
    if built.absent:
        absent = "".join(f"<li>{_esc(text)}</li>" for text in built.absent)
        notes += (
            '<p class="caption">Without a value in every row, hence without a column:</p>'
            f'<ul class="notes">{absent}</ul>'
        )
    captions = "".join(f'<p class="caption">{_esc(text)}</p>' for text in built.captions if text)
    return f"{captions}{text}{notes}"


def _scores_html(table, part: slice) -> str:
    """A scrolling box with some columns of a table; groups are only in tables of one part."""
    titles = "".join(_title_cell(*column) for column in table.columns[part])
    # many columns: the interval goes under the value, so that the table fits the page
    stacked = " stacked" * (len(table.columns) > 7 and not table.published)
    head = f'<tr><th scope="col">Model</th>{titles}</tr>'
    if table.groups:
        spans = "".join(
            f'<th scope="colgroup" colspan="{width}">{_esc(name)}</th>'
            for name, width in table.groups
        )
        head = f'<tr class="span"><td></td>{spans}</tr>{head}'
    rows = []
    for row in table.rows:
        tag = "&nbsp;†" if row.tag == "†" else f' <i class="tag">{_esc(row.tag)}</i>'
        cells = []
        for cell in row.cells[part]:
            value = {"best": "<b>{}</b>", "second": "<u>{}</u>"}.get(cell.mark, "{}")
            spread = f' <span class="pm">± {cell.spread}</span>' if cell.spread else ""
            cells.append(value.format(_esc(cell.text)) + _html_notes(cell.notes) + spread)
        title = _esc(row.title) + tag * bool(row.tag) + _html_notes(row.notes)
        rows.append(f"<tr>{_cells([title, *cells])}</tr>")
    return (
        f'<div class="scroll numbers{stacked}"><table><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _title_cell(title: str, arrow: str, notes: Sequence[int]) -> str:
    """Header cell whose arrow and footnote stay on the line of the title's last word."""
    start, _, last = title.rpartition(" ")
    end = f"{_esc(last)}&nbsp;{arrow}" if arrow else _esc(last)
    return f'<th scope="col">{_esc(start)} <span class="end">{end}{_html_notes(notes)}</span></th>'


def _html_notes(notes: Sequence[int]) -> str:
    links = ",".join(f'<a href="#note-{note}">{note}</a>' for note in notes)
    return f"<sup>{links}</sup>" if links else ""


def _figures_html(figures: Sequence[tuple[str | Path, str]] | None) -> str:
    return "".join(_figure_html(path, caption) for path, caption in figures or ())


def _figure_html(path: str | Path, caption: str) -> str:
    from PIL import Image

    with Image.open(path) as opened:
        width, height = opened.size
        dpi = round(opened.info.get("dpi", (0, 0))[0])
    data = base64.b64encode(Path(path).read_bytes()).decode()
    # plots carry their resolution and are shown at 100 dpi; small pictures in whole pixels
    enlarged = 1 if dpi else max(1, 640 // width)
    shown = f"width:{round(width * 100 / dpi) if dpi else width * enlarged}px"
    shown += ";image-rendering:pixelated" * (enlarged > 1)
    kind = "plot" if dpi else "pixels"
    return (
        f'<figure class="{kind}"><div class="paper"><img alt="{_esc(caption)}" width="{width}" '
        f'height="{height}" style="{shown}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{_esc(caption)}</figcaption></figure>"
    )


def _datasets_html(config: Config, faces: Mapping, rejected: Mapping) -> str:
    rows = []
    for name in config.run.datasets:
        entry = config.datasets[name]
        counts = ["–"] * 5
        if name in faces:
            table = pd.read_csv(faces[name], dtype=str, keep_default_na=False)
            splits = Counter(table["split"])
            people = len(set(table["person"]) - {""})
            counts = [f"{len(table):,}", f"{people:,}" if people else "unknown"]
            counts += [f"{splits[split]:,}" for split in ("train", "val", "test")]
        left = f"{len(rejected[name]):,}" if name in rejected else "–"
        what = f"{entry.source}, {entry.size} px" + ", aligned before" * entry.aligned
        if entry.low_quality:
            compared = f", sets compare with {entry.reference}" if entry.reference else ""
            what += f"; low quality ({entry.low_quality}), no truth{compared}"
        rows.append((_esc(name), what, *counts, left, _esc(entry.licence)))
    head = [
        "Dataset",
        "Source",
        "Faces",
        "People",
        "Train",
        "Val",
        "Test",
        "Quarantined",
        "Licence",
    ]
    text = _grid(head, rows, "data")
    reasons = []
    for name, table in rejected.items():
        often = sorted(Counter(table["reason"]).items(), key=lambda item: (-item[1], item[0]))
        reasons += [(_esc(name), _esc(reason), f"{count:,}") for reason, count in often]
    if reasons:
        text += "<h3>Why photographs were quarantined</h3>"
        text += _grid(["Dataset", "Reason", "Photographs"], reasons, "text last")
    return text


def _degradations_html(config: Config, sheets: Mapping) -> str:
    text = ""
    for name in config.first_shown():
        recipe = config.degradations[name]
        steps = "".join(_step_html(step.model_dump(mode="json")) for step in recipe.steps)
        about = ". ".join(
            filter(None, [recipe.description.rstrip("."), f"Faces of {recipe.size} px"])
        )
        if recipe.source:
            about += f". Source: {recipe.source}"
        text += f"<h3><code>{_esc(name)}</code></h3><p>{_esc(about)}</p>"
        text += f'<ol class="steps">{steps}</ol>'
        if name in sheets:
            text += _figure_html(sheets[name], f"Faces degraded by {name}.")
    return text


def _step_html(step: dict) -> str:
    kind, chance = step.pop("kind"), step.pop("p", 1.0)
    title = f"<b>{_esc(kind.replace('_', ' '))}</b>"
    if chance != 1:
        title += f" with probability {chance:g}"
    settings = {key: value for key, value in step.items() if value is not None}
    return f"<li>{title}: {_setting(settings)}</li>" if settings else f"<li>{title}</li>"


def _setting(value) -> str:
    """Nested settings in words: a range of two numbers, `key value` pairs, alternatives."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_esc(key)} {_setting(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        numbers = all(isinstance(item, int | float) for item in value)
        if numbers and len(value) == 2:
            return f"{value[0]:g}" if value[0] == value[1] else f"{value[0]:g} to {value[1]:g}"
        return " <i>or</i> ".join(_setting(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _esc(value)


def _models_html(config: Config, titles: Mapping[str, str], cards: Mapping) -> str:
    rows, details = [], ""
    for name in config.run.models:
        entry, card = config.models[name], cards.get(name, {})
        row = METHODS[entry.method]
        title = titles.get(name, _title_of(config, name))
        known = card.get("images_seen") is not None  # not of a converted network
        seen = f"{card['images_seen']:,}" if known else "–"
        if known and card.get("images_seen_here", 0) != card["images_seen"]:
            seen += f" ({card['images_seen_here']:,} in this run)"
        parameters = f"{card['parameters']:,}" if "parameters" in card else "–"
        start = card.get("init") or (entry.weights and "given weights") or "nothing trained"
        facts = [card.get("commit"), card.get("hardware"), card.get("date")]
        rows.append(
            (
                f"{_esc(title)}<br><code>{_esc(name)}</code>",
                parameters,
                seen,
                _esc(start),
                str(entry.seed),
                _esc(card.get("licence", "–")),
                "<br>".join(_esc(fact) for fact in facts if fact) or "–",
            )
        )
        listing = {k: v for k, v in (card or entry.settings).items() if v not in (None, "", [], {})}
        what = " and the weights' card" if card else " and settings" if listing else ""
        listed = "".join(f"<dt>{_esc(k)}</dt><dd>{_setting(v)}</dd>" for k, v in listing.items())
        details += (
            f"<details><summary>{_esc(title)}: paper{what}</summary>"
            f'<p>{_esc(row.paper)}</p><dl class="pairs">{listed}</dl></details>'
        )
    head = ["Model", "Parameters", "Images seen", "Started from", "Seed", "Licence", "Made"]
    return _grid(head, rows, "text") + details


def _failures_html(ours: pd.DataFrame, titles: Mapping[str, str], rejected: Mapping) -> str:
    places: dict[tuple[str, str], list] = {}
    for row in ours.itertuples(index=False):
        reason = row.note
        if math.isnan(row.value) or NO_VALUE in reason:
            place = (titles[row.model], row.dataset, row.degradation)
            places.setdefault((METRICS[row.metric].title, reason), []).append(place)
    everywhere = len(ours[["model", "dataset", "degradation"]].drop_duplicates())
    found: dict[tuple, list[str]] = {}
    for (metric, reason), where in places.items():
        where = [("all", "all", "all")] if len(where) == everywhere else where
        for place in where:
            found.setdefault((*place, reason), []).append(metric)
    head = ["Model", "Dataset", "Degradation", "Metrics", "Why"]
    rows = [
        [_esc(text) for text in (*key[:3], ", ".join(metrics), key[3])]
        for key, metrics in found.items()
    ]
    text = "<h3>Scores</h3>" + (
        _grid(head, rows[:LISTED], "text") or "<p>Every score has a value over every face.</p>"
    )
    text += _rest(len(rows))
    photos = [
        [_esc(text) for text in (row.photo, name, row.reason)]
        for name, table in rejected.items()
        for row in table.itertuples(index=False)
    ]
    text += "<h3>Quarantined photographs</h3>" + (
        _grid(["Photograph", "Dataset", "Reason"], photos[:LISTED], "text")
        or "<p>No photograph was quarantined.</p>"
    )
    return text + _rest(len(photos))


def _rest(count: int) -> str:
    return f"<p>… and {count - LISTED:,} more in the tables on disk.</p>" if count > LISTED else ""


def _markdown_html(path: Path) -> str:
    """A Markdown file of paragraphs and pipe tables; anything else stays text."""
    text, head = "", None
    rows: list[list[str]] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        line = line.strip()
        if line.startswith("|"):
            cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                continue
            shown = [re.sub(r"`([^`]+)`", r"<code>\1</code>", _esc(cell)) for cell in cells]
            head, rows = (shown, rows) if head is None else (head, [*rows, shown])
            continue
        if head is not None:
            text += _grid(head, rows, "text")
            head, rows = None, []
        if line:
            text += f"<p>{_esc(line.lstrip('# '))}</p>"
    return text
