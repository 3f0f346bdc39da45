"""The base of every group of settings: how it is read from YAML, so that what is wrong is told with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Self, get_args, get_origin

import dagster as dg
from dagster.components.resolved.base import derive_model_type, resolve_fields
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from luma_pipeline.component.faults import Fault, Origin, Path, YamlOrigin, faults_of, raise_for, words_of
from luma_pipeline.component.json_schema import or_template, written_schema
from luma_pipeline.component.templates import StrictEnvironment, TemplateValueError, is_template, rendered

__all__ = ["SettingsGroup", "extra", "settings_of"]


class SettingsGroup(dg.Resolvable, dg.Model):
    """Settings that belong together.

    In YAML every value may be a template. A key that is none, a value that is none and a template that gives nothing
    are told with file, line and key, all at once.
    """

    # Numbers are taken for text: a template whose text looks like a number gives one.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _has_known_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if isinstance(values, dict) else []
        if unknown:
            raise ValueError("; ".join(f"{key}: {cls.why_unknown(key)}" for key in unknown))
        return values

    @classmethod
    def moved(cls) -> Mapping[str, str]:
        """The places of settings that once stood in this group, by their old keys."""
        return {}

    @classmethod
    def why_unknown(cls, key: str) -> str:
        """What to tell somebody who gave a setting that this group does not have."""
        if key in cls.moved():
            return f"is now {cls.moved()[key]}"
        near = get_close_matches(str(key), cls.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(cls.model_fields)}"
        return f"there is no such setting; {hint}"

    @classmethod
    def why_no_group(cls, key: str, group: type[SettingsGroup]) -> str:
        """What to tell somebody who gave a single value under the key of a group."""
        place = f"is now {cls.moved()[key]}; " if key in cls.moved() else ""
        return f"{place}must be a mapping of settings such as {', '.join(list(group.model_fields)[:3])}"

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The model of the YAML: it takes whatever is written, for `resolve_from_model` to look at."""
        if cls not in _WRITTEN:
            _WRITTEN[cls] = create_model(f"{cls.__name__}Model", __base__=_Written)
            _WRITTEN[cls].settings = cls
        return _WRITTEN[cls]

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """The settings that are written.

        Raises:
            SettingsError: Some of them cannot be.
        """
        faults: list[Fault] = []
        reader = _Reader(context.with_scope(env=StrictEnvironment()), faults)
        values = reader.read(cls, model.model_extra or {}, ())
        settings = cls.validated(values, faults)
        origin = YamlOrigin(context)
        raise_for(faults, origin)
        assert settings is not None  # noqa: S101 - there is one where there are no faults
        settings.came_from(origin)
        return settings

    @classmethod
    def validated(cls, values: Mapping[str, Any], faults: list[Fault]) -> Self | None:
        """The settings with these values; None, and more faults, where they cannot be."""
        try:
            return cls(**values)
        except ValidationError as error:
            told = {fault.path for fault in faults}
            faults += [fault for fault in faults_of(error, _secrets(cls)) if fault.path not in told]
            return None

    def came_from(self, origin: Origin) -> None:
        """Take in where the settings stand."""


class _Written(BaseModel):
    """The attributes of a YAML document as they are written."""

    model_config = ConfigDict(extra="allow")
    settings: ClassVar[type[SettingsGroup]]

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # Dagster's own model knows the fields that have resolvers: translation, and those of subclasses.
        theirs = handler.resolve_ref_schema(handler(derive_model_type(cls.settings).__pydantic_core_schema__))
        ours = written_schema(cls.settings)
        others = {
            name: or_template(one) for name, one in theirs["properties"].items() if not is_ours(cls.settings, name)
        }
        properties = {**ours["properties"], **others}
        # The validator then says that the new place is required, on the line of the old one.
        moved = {
            old: {"required": [f"{new} (in place of {old})"]}
            for old, new in cls.settings.moved().items()
            if old not in properties
        }
        schema = {**theirs, **ours, "properties": properties, "propertyNames": {"enum": list(properties)}}
        return {**schema, "dependentSchemas": moved} if moved else schema


_WRITTEN: dict[type[SettingsGroup], type[_Written]] = {}


class _Reader:
    """Reads what is written into values, and gathers what is wrong."""

    def __init__(self, context: dg.ResolutionContext, faults: list[Fault]) -> None:
        self._context = context
        self._faults = faults

    def read(self, model: type[SettingsGroup], written: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """The values of a group; one that is wrong is left out."""
        derived = derive_model_type(model)
        values: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key, value in written.items():
            at = (*path, key)
            try:
                if is_ours(model, key):
                    values.update(self._value(model, key, value, at))
                elif key in derived.model_fields:
                    others[key] = value
                else:
                    self._faults.append(Fault(at, model.why_unknown(key)))
            except TemplateValueError as error:
                self._faults.append(Fault(at, str(error)))
        values.update(self._resolved_by_dagster(model, derived, others, path))
        return values

    def _value(self, model: type[SettingsGroup], key: str, value: Any, path: Path) -> Mapping[str, Any]:
        info = model.model_fields[key]
        group = group_of(info)
        if group is None:
            return {key: rendered(value, self._context.scope, as_text=not _reads_like_python(info.annotation))}
        if is_template(value):
            value = rendered(value, self._context.scope)
        if isinstance(value, Mapping):
            return {key: self.read(group, value, path)}
        if value is not None and not isinstance(value, group):  # an empty group is null in YAML
            self._faults.append(Fault(path, model.why_no_group(key, group)))
            return {}
        return {key: value} if value is not None else {}

    def _resolved_by_dagster(
        self, model: type[SettingsGroup], derived: type[BaseModel], written: Mapping[str, Any], path: Path
    ) -> Mapping[str, Any]:
        """Fields with a resolver of their own: `translation`, and those that a subclass adds."""
        context = self._context
        for part in path:
            context = context.at_path(part)
        try:
            return resolve_fields(derived.model_validate(written), model, context)
        except ValidationError as error:
            self._faults += [Fault((*path, *fault.path), fault.text) for fault in faults_of(error)]
        except ResolutionException as error:
            self._faults.append(Fault((*path, *list(written)[:1]), words_of(error)))
        return {}


def is_ours(model: type[SettingsGroup], key: str) -> bool:
    """Whether a field is a setting with a variable or a group of those, and not one with a resolver of its own."""
    info = model.model_fields.get(key)
    return info is not None and ("variable" in extra(info) or group_of(info) is not None)


def group_of(info: FieldInfo) -> type[SettingsGroup] | None:
    """The group that a field holds; None for a single setting."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, SettingsGroup) else None


def extra(info: FieldInfo) -> Mapping[str, Any]:
    """What a field says of itself beside its type."""
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def settings_of(model: type[SettingsGroup], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The paths and fields of the settings in a group: its own first, then those of the groups in it."""
    for name, info in model.model_fields.items():
        if "variable" in extra(info):
            yield f"{above}{name}", info
    for name, info in model.model_fields.items():
        if (group := group_of(info)) is not None:
            yield from settings_of(group, f"{above}{name}.")


def _secrets(model: type[SettingsGroup]) -> frozenset[str]:
    return frozenset(path for path, info in settings_of(model) if extra(info).get("dagster__is_secret"))


def _reads_like_python(annotation: Any) -> bool:
    """Whether a template of a setting gives a number, a list or a Boolean rather than text."""
    return bool({int, float, bool, list, dict} & _kinds(annotation))


def _kinds(annotation: Any) -> set[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) in (list, dict) or not arguments:
        return {get_origin(annotation) or annotation}
    return set().union(*(_kinds(one) for one in arguments if one is not type(None)))
