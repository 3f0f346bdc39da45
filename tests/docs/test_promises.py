"""Each promise of the docs names tests that there are."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import DOCS, ROOT


def _named(page: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)


NAMED = _named((DOCS / "promises.md").read_text())
SECURITY = (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize(("path", "name"), [*NAMED, *_named(SECURITY)])
def test_a_promise_names_a_test_that_there_is(path: str, name: str) -> None:
    functions = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions


def test_every_promise_names_a_test() -> None:
    rows = [line for line in (DOCS / "promises.md").read_text().splitlines() if line.startswith("| ")]
    promises = [line for line in rows if not line.startswith(("| promise |", "| --- |"))]
    assert len(promises) == len(NAMED) >= 40


def test_every_promise_of_the_security_page_names_a_test() -> None:
    untrusted = SECURITY.partition("## What is not trusted")[2]
    rows = [line for line in untrusted.splitlines() if line.startswith("| ")]
    promises = [line for line in rows if not line.startswith(("| promise |", "| --- |"))]
    assert all(len(_named(promise)) == 1 for promise in promises)
    assert len(promises) >= 30
