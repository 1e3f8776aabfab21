"""Plots to a file, and a page that holds everything in itself: it asks no other host for anything."""

from __future__ import annotations

import html
import importlib.util
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.bench.load.config import LoadConfig
from octavo.bench.load.summary import DETAILS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{text-align:right;"
    "padding:.2rem .8rem;border-bottom:1px solid #8884}th:first-child{text-align:left}svg{max-width:100%;"
    "height:auto;background:#fff;border-radius:6px;margin:1rem 0}div{overflow-x:auto}"
)


def check_matplotlib() -> None:
    """Raise ValueError, saying how to install it, when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots and reports (--plot, --report) need matplotlib: pip install 'octavo[bench]'")


def write_report(config: LoadConfig, title: str, results: list[dict[str, Any]], figure: Figure) -> None:
    """Write what the flags ask for; raises ValueError when a file can not be written."""
    try:
        if config.plot is not None:
            figure.savefig(config.plot)
        if config.report is not None:
            Path(config.report).write_text(page(title, results, figure))
    except (OSError, ValueError) as error:
        raise ValueError(f"the plots or the report (--plot, --report) can not be written: {error}") from error


def page(title: str, results: list[dict[str, Any]], figure: Figure) -> str:
    """The plots, and a table with a column for each result."""
    names = [name for name in results[0] if name not in DETAILS]
    rows = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(_shown(result.get(name)))}</td>" for result in results)
        + "</tr>\n"
        for name in names
    )
    escaped = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escaped}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{STYLE}</style>\n<h1>{escaped}</h1>\n{svg(figure)}\n<div><table>\n{rows}</table></div>\n</html>\n"
    )


def svg(figure: Figure) -> str:
    """The figure as an SVG element, without the prolog and metadata that name other hosts."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return "" if value is None else str(value)
