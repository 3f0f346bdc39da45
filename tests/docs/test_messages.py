"""The page of messages: each is one of the code, and each of the code is there."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import luma_pipeline
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.http.errors import TransportCode
from luma_pipeline.media import ErrorCode
from tests.docs.pages import DOCS, ROOT, first_cells

PAGE = (DOCS / "messages.md").read_text()
MESSAGES = [span for cells in first_cells(PAGE) for span in cells if " " in span]
# Words of Dagster, which the page explains.
OF_DAGSTER = ('environment variable "…" which is not set',)
# Told to nobody but a developer: faults of the code itself.
OF_DEVELOPERS = {"AssertionError", "RuntimeError", "AttributeError", "NotS3Error", "CopyCancelled"}
# Caught where it is raised.
CAUGHT = {"an @ that is not percent-encoded", "no such descriptor", "no timescale"}
_TELLING = re.compile(r"(Error|Fault|Failure|CopyCancelled|log\.(warning|error)|_Broken)$")
_HOLE = "\0"
_SHORTEST = re.compile(r"([^\W\d]+\W+){2}[^\W\d]+")
"""Three words: less says nothing beside its values."""


def _text(node: ast.expr) -> str:
    """A text with a hole for each value in it; empty where it is no text."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[srd]|%\.\df", _HOLE, node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else _HOLE for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + (_text(node.right) or _HOLE)
    return ""


@cache
def _trees() -> list[tuple[Path, ast.Module]]:
    files = sorted((ROOT / "luma_pipeline").rglob("*.py"))
    return [(file.relative_to(ROOT), ast.parse(file.read_text())) for file in files]


@cache
def _texts() -> list[str]:
    """Every text of the code."""
    return [
        text for _, tree in _trees() for node in ast.walk(tree) if isinstance(node, ast.expr) and (text := _text(node))
    ]


def _told() -> Iterator[tuple[Path, str]]:
    """The messages of errors and warnings, with the files that tell them."""
    for path, tree in _trees():
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not _TELLING.search(ast.unparse(node.func)):
                continue
            if ast.unparse(node.func).rpartition(".")[2] in OF_DEVELOPERS:
                continue
            texts = (_text(argument) for argument in node.args)
            yield from ((path, text) for text in texts if _SHORTEST.search(text))


def _pattern(message: str) -> re.Pattern[str]:
    """What the text of a documented message looks like in the code; each … stands for anything."""
    return re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)


@pytest.mark.parametrize("message", [message for message in MESSAGES if message not in OF_DAGSTER])
def test_every_documented_message_is_one_of_the_code(message: str) -> None:
    assert len(message.replace("…", "").strip()) > 5
    pattern = _pattern(message)
    assert any(pattern.search(text) for text in _texts())


def test_every_message_of_the_code_is_documented() -> None:
    patterns = [_pattern(message) for message in MESSAGES]
    told = {(path, text): None for path, text in _told() if text not in CAUGHT}
    missing = [
        f"{path}: {text.replace(_HOLE, '…')}" for path, text in told if not any(one.match(text) for one in patterns)
    ]
    assert len(told) > 100
    assert missing == [], "add them to docs/messages.md"


def _errors() -> list[str]:
    names = set()
    for module in pkgutil.walk_packages(luma_pipeline.__path__, "luma_pipeline."):
        if ".sandbox" in module.name or module.name.endswith("cli"):
            continue
        for _, found in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(found, LumaPipelineError):
                names.add(found.__name__)
    return sorted(names)


# Bases, and errors that become a row with a code before anybody sees them.
_NEVER_SEEN = {"BodyTooLargeError", "CopyCancelled", "CopyError", "DatasetError", "LumaError", "MediaError", "S3Error"}
_NEVER_SEEN |= {"MediaSettingsError", "InvalidSettingError", "TargetRefusedError", "TransportError"}


@pytest.mark.parametrize("name", [name for name in _errors() if name not in _NEVER_SEEN])
def test_every_error_of_the_code_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("code", [*ErrorCode, *TransportCode, "not_asked", "task_id_mismatch", "http_…"])
def test_every_error_code_of_a_row_is_documented(code: str) -> None:
    assert [str(code)] in list(first_cells(PAGE))


_CODE = re.compile(r"[a-z]+(_[a-z]+)+")


def test_every_code_of_an_answer_is_documented() -> None:
    """Codes are the fourth argument of a Response, or `error_code` of a row."""
    found = set()
    for path, tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or "sandbox" in path.parts:
                continue
            given = [keyword.value for keyword in node.keywords if keyword.arg == "error_code"]
            if ast.unparse(node.func) == "Response":
                given += node.args[3:4]
            found |= {one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    assert {"not_a_generation", "not_json", "redirect", "blank_task_id", "not_asked"} <= found
    documented = [cells[0] for cells in first_cells(PAGE)]
    assert sorted(found - set(documented)) == []
