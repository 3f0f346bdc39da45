"""The site is built without a warning, asks nobody else for anything, and no link of the repository's pages is dead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT

# What a browser fetches by itself; links that a reader clicks may lead anywhere.
_FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class _Fetches(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("rel") != "canonical" and (url := values.get(_FETCHED.get(tag, ""))):
            self.urls.append(url)


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        found = _Fetches()
        found.feed(page.read_text())
        assert found.urls, page
        assert [url for url in found.urls if re.match(r"(\w+:)?//", url)] == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet


def test_pages_of_the_repository_are_part_of_the_site(site: Path) -> None:
    for page in ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "benchmarks/RESULTS", "examples/script/index"):
        assert (site / f"{page}.html").exists()
    assert 'href="examples/script/index.html"' in (site / "library.html").read_text()


PAGES = [
    page
    for folder in (".", "docs", "deploy", "examples", "benchmarks", ".github")
    for page in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
]
_LINK = re.compile(r"(?<!`)\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_FENCED = re.compile(r"^```.*?^```$|^ {4,}.*$", re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_of_a_page_is_dead(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in _anchors(target), f"{link} names no heading"
