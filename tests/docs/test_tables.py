"""The tables of the docs are those of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from luma_pipeline.component import ENVIRONMENT
from luma_pipeline.media import CopyStatus
from tests.docs.pages import DOCS, PAGES, ROOT


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = _tables()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_code(page: Path) -> None:
    assert TABLES.with_tables(page.read_text()) == page.read_text(), "make docs-tables writes them"


def test_every_table_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in TABLES.TABLES if f"<!-- table: {name} -->" not in text] == []


def test_every_variable_that_a_page_names_is_a_setting() -> None:
    for page in (ROOT / "README.md", *PAGES):
        named = set(re.findall(r"(?<![A-Z_])LUMA_[A-Z0-9_]+(?<!_)\b", page.read_text()))
        assert sorted(named - set(ENVIRONMENT.values())) == [], page.name


def test_every_setting_that_a_page_names_is_one() -> None:
    groups = "source|provider|videos|partitions|schedule|checks|gallery"
    for page in PAGES:
        named = set(re.findall(rf"`((?:{groups})\.[a-z_]+)", page.read_text()))
        assert sorted(named - set(ENVIRONMENT)) == [], page.name


def test_every_number_that_the_page_of_backfills_names_is_in_the_metadata() -> None:
    code = (ROOT / "luma_pipeline" / "orchestration" / "metadata.py").read_text()
    rows = re.findall(r"^\| (?:`luma_\w+`|all) \| (.*?) \|", (DOCS / "backfills.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    assert len(names) > 12
    words = {*re.findall(r"\w+(?:/\w+)?", code), *CopyStatus}
    assert [name for name in names if name not in words] == []
