"""What `dg check yaml` and editors are told of the settings: a JSON schema in which every value may be a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import WithDefaultSchema

from luma_pipeline.component.templates import TEMPLATE

__all__ = ["or_template", "written_schema"]

_ABOUT = ("title", "description", "default", "examples")


def written_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model of settings, as they may be written in YAML.

    Not `anyOf` with text, as Dagster has it: the validator would say only that a value is not valid under any.
    """
    schema = model.model_json_schema(schema_generator=_Generator)
    return _written(schema, schema.get("$defs", {}))


class _Generator(GenerateJsonSchema):
    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        """A field with a resolver of its own may hold anything; Dagster's schema takes its place."""
        return {}

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """A variable that a run reads is no default in YAML."""
        if isinstance(schema.get("default"), dg.EnvVar):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _written(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {**_written(definitions[schema["$ref"].split("/")[-1]], definitions), **_about(schema)}
    if "variable" not in schema and schema.get("type") == "object":
        properties = {name: _written(one, definitions) for name, one in schema["properties"].items()}
        return {
            **{key: value for key, value in schema.items() if key not in {"$defs", "required", "type"}},
            "properties": properties,
            # Beside `additionalProperties`, which points to the key, this tells which there are.
            "propertyNames": {"enum": list(properties)},
            # An empty group is null in YAML.
            **_template_or({"type": ["object", "null"]}),
        }
    if "variable" not in schema:  # a field with a resolver of its own, of which Dagster has a schema
        return dict(schema)
    value = _of_one_kind({key: item for key, item in schema.items() if key not in {*_ABOUT, "variable"}})
    if "items" in value:
        value["items"] = _template_or(value["items"])
    return {**_about(schema), **_template_or(value)}


def _template_or(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"if": {"type": "string", "pattern": TEMPLATE}, "then": {}, "else": dict(schema)}


def or_template(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Dagster's schema of a field with a resolver, `anyOf` with text, so that the validator looks into a mapping."""
    others = [kind for kind in schema.get("anyOf", []) if kind.get("type") not in {"string", "null"}]
    if len(others) != 1:
        return dict(schema)
    return {**_about(schema), "if": {"type": ["string", "null"]}, "then": {}, "else": others[0]}


def _of_one_kind(schema: dict[str, Any]) -> dict[str, Any]:
    """A value of several types, as one list of types: an error then tells which are wanted."""
    kinds = schema.pop("anyOf", [])
    if not kinds:
        return schema
    types: list[str] = []
    for kind in kinds:
        types += [kind["type"]] if isinstance(kind["type"], str) else kind["type"]
        schema |= kind
    if "enum" in schema and "null" in types:
        schema["enum"] = [*schema["enum"], None]
    return schema | {"type": types}


def _about(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in _ABOUT if key in schema}
