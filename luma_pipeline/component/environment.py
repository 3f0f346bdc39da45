"""Settings from environment variables: the shipped code location has no YAML."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any, get_origin

import dagster as dg

from luma_pipeline.component.faults import Fault
from luma_pipeline.component.groups import extra, settings_of
from luma_pipeline.component.settings import VARIABLE_DEFAULTS, TopSettings

__all__ = ["ENVIRONMENT", "read_environment", "tell_missing", "tell_misspelt"]

_log = logging.getLogger("luma_pipeline.component")

ENVIRONMENT: Mapping[str, str] = {path: str(extra(info)["variable"]) for path, info in settings_of(TopSettings)}
"""The environment variable of every setting, by the setting's path."""


_OR_NONE = {"pool", "audit.read_within_days"}
"""Settings whose variable takes `none`, where they have another default."""


def read_environment(environment: Mapping[str, str], faults: list[Fault]) -> dict[str, Any]:
    """The settings that the variables give, group by group. Those that a run must have stay to be read by the run."""
    values: dict[str, Any] = {}
    for path, info in settings_of(TopSettings):
        *groups, name = path.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        text = environment.get(ENVIRONMENT[path])
        if isinstance(info.default, dg.EnvVar):
            continue
        if path in _OR_NONE and text is not None and text.strip().lower() in {"", "none"}:
            inner[name] = None
        elif text is not None and text.strip() and extra(info).get("dagster__is_secret"):
            inner[name] = dg.EnvVar(ENVIRONMENT[path])
        elif text is not None and text.strip():
            try:
                inner[name] = _parsed(info.annotation, text.strip())
            except ValueError:
                faults.append(Fault((*groups, name), f"must be name=value, separated by commas, not {text!r}"))
        elif path in VARIABLE_DEFAULTS:
            inner[name] = VARIABLE_DEFAULTS[path]
    return values


def _parsed(annotation: Any, text: str) -> Any:
    """A variable's text as far as pydantic does not read it: lists and mappings."""
    if get_origin(annotation) is dict:
        return {name.strip(): value.strip() for name, value in (part.split("=", 1) for part in text.split(","))}
    if get_origin(annotation) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def tell_missing(settings: TopSettings, environment: Mapping[str, str]) -> None:
    """Say in the log which variables runs will miss, and what they are for."""
    missing = [
        f"{value.env_var_name} ({(info.description or '').rstrip('.')})"
        for path, info in settings_of(TopSettings)
        if isinstance(value := settings.at(path), dg.EnvVar) and not environment.get(value.env_var_name, "").strip()
    ]
    if missing:
        _log.warning("runs will fail until these variables are set: %s", "; ".join(missing))


def tell_misspelt(environment: Mapping[str, str]) -> None:
    """Say in the log which variables look like a setting's that is misspelt, and are read by nobody.

    Others that begin with LUMA_ are left alone, as they may be another program's.
    """
    settings = set(ENVIRONMENT.values())
    for variable in sorted(environment):
        if not variable.upper().startswith("LUMA") or variable in settings:
            continue
        likeness, nearest = max((_likeness(variable, setting), setting) for setting in settings)
        # A name that is only somewhat alike is no slip where the setting has been given as well.
        if likeness >= _MISSPELT or (likeness >= _MAYBE_MISSPELT and nearest not in environment):
            _log.warning("%s is not a setting and is not read. Did you mean %s?", variable, nearest)


_MISSPELT, _MAYBE_MISSPELT = 0.85, 0.7


def _likeness(variable: str, setting: str) -> float:
    """How alike two names are (0..1), without the prefix that all have."""
    own = variable.upper().removeprefix("LUMA").removeprefix("_")
    return SequenceMatcher(None, own, setting.removeprefix("LUMA_")).ratio()
