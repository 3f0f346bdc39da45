"""The docs as tests read them: pages, fenced blocks, and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))

_FENCE = re.compile(
    r"^```(?P<language>\w+)?(?: title=\"(?P<title>[^\"]*)\")?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    title: str
    text: str


def blocks(*pages: Path) -> list[Block]:
    """Every fenced block of the pages, in their order."""
    return [
        Block(page.name, found["language"] or "", found["title"] or "", found["text"])
        for page in pages or PAGES
        for found in _FENCE.finditer(page.read_text())
    ]


def first_cells(text: str) -> Iterator[list[str]]:
    """The code spans in the first cell of each row of the tables of a page."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield re.findall(r"`([^`]+)`", line.removeprefix("| ").split(" | ")[0])
