"""The values of a YAML document: templates are rendered, and one that gives nothing says which name it misses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jinja2 import Template, Undefined, UndefinedError
from jinja2.nativetypes import NativeTemplate

__all__ = ["TEMPLATE", "StrictEnvironment", "TemplateValueError", "is_template", "rendered"]

TEMPLATE = r"\{\{|\{%"
"""What a text has that is a template, as a regular expression."""


class TemplateValueError(ValueError):
    """A template gives no value; the message says why."""


class _Unset(Undefined):
    """A variable that is not set: it may be tested and have a default, but not become text."""

    def __str__(self) -> str:
        raise TemplateValueError(str(self._undefined_message))


class StrictEnvironment:
    """`env` in templates, as Dagster's: `env.NAME` and `env("NAME", "default")`.

    Dagster's own gives None for `env.NAME` that is not set, and "None" within a longer text.
    """

    def __call__(self, name: str, default: Any = None) -> Any:
        """The variable, or the default."""
        value = os.environ.get(name, default)
        return _not_set(name) if value is None else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("jinja", "__")):  # jinja2 looks for marks of its own
            raise AttributeError(name)
        return os.environ.get(name) or (_not_set(name) if name not in os.environ else "")


def _not_set(name: str) -> _Unset:
    return _Unset(hint=f"the environment variable {name} is not set")


def is_template(value: object) -> bool:
    """Whether a value is text that Dagster renders."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def rendered(value: Any, scope: Mapping[str, Any], *, as_text: bool = False) -> Any:
    """A value with its templates rendered, also those within lists and mappings.

    A template gives what Python would read from its text: a number, a list. `as_text` keeps the text: a token such as
    1e5 is no number.

    Raises:
        TemplateValueError: A template cannot be rendered, or gives nothing.
    """
    if isinstance(value, Mapping):
        return {key: rendered(item, scope, as_text=as_text) for key, item in value.items()}
    if isinstance(value, list):
        return [rendered(item, scope, as_text=as_text) for item in value]
    if not is_template(value):
        return value
    try:
        found = NativeTemplate(value).render(**scope)
        text = Template(value).render(**scope) if as_text and not isinstance(found, (str, Undefined)) else None
    except UndefinedError as error:
        raise TemplateValueError(f"{error}; templates know {', '.join(sorted(scope))}") from None
    except TemplateValueError:
        raise
    except Exception as error:  # noqa: BLE001 - a template is a program, and may raise anything
        raise TemplateValueError(f"the template cannot be rendered: {error}") from None
    if isinstance(found, Undefined):
        raise TemplateValueError(str(found._undefined_message))
    return found if text is None else text
