"""Tables for print as CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from frcore.report.cells import Table, Tables, split_columns
from frcore.report.scores import read_long_table
from frcore.report.tables import build_tables

TEX_COLUMNS = 7


def comparison(
    scores_csv: str | Path,
    out_csv: str | Path,
    out_md: str | Path,
    out_tex: str | Path,
    titles: Mapping[str, str] | None = None,
) -> None:
    """Wide tables for print, one per dataset and degradation, from the long table.

    titles: model -> title, also the order of rows (default: the methods' titles, in file order).
    Among measured rows the best is bold and the second underlined, by the direction of the
    metric's registry row and by the printed digits; a mean over fewer images than another model's
    takes no part. Published numbers stand in tables of their own and are never ranked.
    """
    built = build_tables(read_long_table(scores_csv), titles)
    writers = ((out_csv, table_csv), (out_md, table_markdown), (out_tex, table_latex))
    for path, write in writers:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(write(built), encoding="utf-8", newline="\n")


def table_csv(built: Tables) -> str:
    """One row a model and table; the cells are text for print (numbers are in scores.csv)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, table in enumerate(built.tables):
        if index:
            writer.writerow([])
        spans = [name for name, width in table.groups for _ in range(width)]
        titles = [" ".join(filter(None, column[:2])) for column in table.columns]
        if spans:
            titles = [f"{span}: {title}" for span, title in zip(spans, titles)]
        writer.writerow([table.heading, "source", *titles])
        for row in table.rows:
            source = "published" if table.published else row.tag or "measured"
            shown = [c.text + (f" ± {c.spread}" if c.spread else "") for c in row.cells]
            writer.writerow([row.title, source, *shown])
    return text.getvalue()


def table_markdown(built: Tables) -> str:
    lines = []
    for table in built.tables:
        spans = [name for name, width in table.groups for _ in range(width)]
        titles = []
        for index, (title, arrow, note) in enumerate(table.columns):
            span = f"{_md(spans[index])}<br>" if spans else ""
            titles.append(f"{span}{_md(title)} {arrow}".rstrip() + _sup(note))
        lines += [f"### {_md(table.heading)}", ""]
        lines.append(f"| model | {' | '.join(titles)} |")
        lines.append("|:--" + "|--:" * len(titles) + "|")
        for row in table.rows:
            tag = row.tag if row.tag == "†" else f" ({row.tag})" * bool(row.tag)
            shown = []
            for cell in row.cells:
                value = {"best": "**{}**", "second": "<ins>{}</ins>"}.get(cell.mark, "{}")
                spread = f" ± {cell.spread}" if cell.spread else ""
                shown.append(value.format(cell.text) + spread + _sup(cell.notes))
            title = f"{_md(row.title)}{tag}{_sup(row.notes)}"
            lines.append(f"| {title} | {' | '.join(shown)} |")
        lines.append("")
    lines += [_md(" ".join(filter(None, built.captions))), ""]
    lines += [f"{number}. {_md(text)}" for number, text in enumerate(built.notes, 1)]
    if built.absent:
        lines += ["", "Without a value in every row, hence without a column:", ""]
        lines += [f"- {_md(text)}" for text in built.absent]
    return "\n".join(lines).rstrip() + "\n"


def _sup(notes: Sequence[int]) -> str:
    return f"<sup>{','.join(map(str, notes))}</sup>" if notes else ""


def _md(text: str) -> str:
    """Escape what Markdown and the HTML inside it would take for markup."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def table_latex(built: Tables) -> str:
    """A table environment each; needs \\usepackage{booktabs} and a UTF-8 engine, nothing else."""
    lines = ["% \\usepackage{booktabs}"]
    for table in built.tables:
        used = sorted(
            {note for row in table.rows for cell in row.cells for note in cell.notes}
            | {note for column in table.columns for note in column[2]}
            | {note for row in table.rows for note in row.notes}
        )
        caption = built.captions[table.published]
        lines += ["\\begin{table*}[t]", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}"]
        lines.append(f"\\caption{{{_tex(table.heading)}. {_tex(caption)}}}")
        for part in split_columns(table, TEX_COLUMNS):
            lines += ["", "\\medskip"] * (part.start > 0)
            lines += _tabular(table, part)
        if used:
            texts = [f"$^{{{number}}}$ {_tex(built.notes[number - 1])}" for number in used]
            # the blank line ends the tabular's paragraph, \par keeps the small line spacing
            lines += ["", f"\\smallskip\\parbox{{\\linewidth}}{{\\scriptsize {'; '.join(texts)}.}}"]
        if built.absent and not table.published:
            absent = f"Without a value in every row: {'. '.join(built.absent)}."
            lines += ["", f"\\smallskip\\parbox{{\\linewidth}}{{\\scriptsize {_tex(absent)}}}"]
        lines += ["\\end{table*}", ""]
    return "\n".join(lines)


def _tabular(table: Table, part: slice) -> list[str]:
    """Lines of the tabular with some columns; groups are only in tables of one part."""
    columns = table.columns[part]
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    if table.groups:
        spans, rules, first = [], [], 2
        for name, width in table.groups:
            spans.append(f"\\multicolumn{{{width}}}{{c}}{{{_tex(name)}}}")
            rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
            first += width
        lines += [f" & {' & '.join(spans)} \\\\", " ".join(rules)]
    titles = []
    for title, arrow, notes in columns:
        # "NIQE refit (32 px blocks)" in two lines, or seven metrics do not fit a page
        cut = title.replace(" (", "\n(") if "(" in title else title.replace(", ", ",\n")
        words = [_tex(part) for part in cut.split("\n")]
        words[-1] += f" {_tex(arrow)}" * bool(arrow) + _tex_sup(notes)
        stacked = "\\shortstack[r]{" + " \\\\ ".join(words) + "}"
        titles.append(stacked if len(words) > 1 else words[0])
    lines += [f"model & {' & '.join(titles)} \\\\", "\\midrule"]
    for row in table.rows:
        tag = _tex(row.tag) if row.tag == "†" else f" ({_tex(row.tag)})" * bool(row.tag)
        shown = []
        for cell in row.cells[part]:
            value = {"best": "\\textbf{%s}", "second": "\\underline{%s}"}.get(cell.mark, "%s")
            spread = f"{{\\scriptsize\\,$\\pm$\\,{cell.spread}}}" if cell.spread else ""
            shown.append(value % _tex(cell.text) + spread + _tex_sup(cell.notes))
        lines.append(f"{_tex(row.title)}{tag}{_tex_sup(row.notes)} & {' & '.join(shown)} \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _tex_sup(notes: Sequence[int]) -> str:
    return f"$^{{{','.join(map(str, notes))}}}$" if notes else ""


def _tex(text: str) -> str:
    """Escape LaTeX's special characters and write the signs of this file as commands."""
    table = {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
        "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "·": r"$\cdot$",
        "×": r"$\times$", "∞": r"$\infty$", "†": r"$^{\dagger}$", "–": "--", '"': "''",
    }  # fmt: skip
    return "".join(table.get(letter, letter) for letter in " ".join(text.split()))
