"""Hooks of MkDocs: pages outside `docs/` are part of the site, and links to them work here and in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parent.parent
_PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md")
_FOLDERS = ("deploy", "examples")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's top, and the folders to copy from."""
    inside = [path for folder in _FOLDERS for path in sorted((_ROOT / folder).rglob("*")) if _is_shown(path)]
    for path in [*(_ROOT / name for name in _PAGES), *inside]:
        files.append(File.generated(config, path.relative_to(_ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links between `docs/` and the rest of the repository links inside the site."""
    source = page.file.src_uri
    if (_ROOT / "docs" / source).exists():
        return re.sub(r"\]\(\.\./(?!\.\.)", "](", markdown)
    return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)


def _is_shown(path: Path) -> bool:
    # A filled-in copy of an .env.example has secrets.
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".env"
