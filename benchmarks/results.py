"""Where the figures are written: one section a benchmark in RESULTS.md."""

from __future__ import annotations

import os
from pathlib import Path

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "RESULTS.md"))


def write_section(marker: str, title: str, lines: list[str]) -> None:
    """Replace one section of RESULTS.md, or of the file that BENCHMARK_RESULTS names, between its markers."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    text = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    section = "\n".join([start, f"## {title}", "", *lines, end])
    if start in text:
        text = text[: text.index(start)] + section + text[text.index(end) + len(end) :]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    RESULTS.write_text(text)
