"""Write reference/recipe.md from the specs themselves: `make docs`. A test compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nexus.recipe.schema import Recipe

TARGET = Path(__file__).parent / "reference" / "recipe.md"
INTRODUCTION = """# Recipe reference

Written by `make docs` from the code; `nexus schema` prints the same as JSON Schema. Where a value
may be one of several mappings, `kind` chooses. A key without a default must be given. Every mapping
refuses keys that it does not know.
"""
PLAIN = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
    "object": "mapping",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference() -> str:
    schema = Recipe.model_json_schema()
    parts = {"Recipe": schema, **schema.get("$defs", {})}
    sections = [_section(name, parts[name]) for name in _in_order(schema, parts)]
    return "\n".join([INTRODUCTION, *sections])


def _in_order(schema: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    """The recipe first, then each part where it is first mentioned."""
    order, waiting = [], ["Recipe"]
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            order.append(name)
            waiting += _references(parts[name].get("properties", parts[name]))
    return order


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for key, part in schema.items():
            if key not in {"$defs", "discriminator"}:
                yield from _references(part)


def _section(name: str, schema: dict[str, Any]) -> str:
    properties = schema.get("properties", {})
    kind = properties.get("kind", {}).get("const")
    lines = [f"## {name}", ""]
    lines += [f"`kind: {kind}`", ""] if kind else []
    lines += [schema["description"].strip(), ""] if "description" in schema else []
    if not properties:
        return "\n".join([*lines, _type(schema), ""])
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for key, value in properties.items():
        if key != "kind":
            default = "" if key in required else f"`{_yaml(value.get('default'))}`"
            meaning = " ".join(value.get("description", "").split()).replace("|", "\\|")
            lines.append(f"| `{key}` | {_type(value)} | {default} | {meaning} |")
    return "\n".join([*lines, ""])


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            parts = [part for part in schema[choice] if part.get("type") != "null"]
            return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if "const" in schema:
        return f"`{_yaml(schema['const'])}`"
    if "enum" in schema:
        return " · ".join(f"`{_yaml(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        inner = [schema["items"]] if "items" in schema else schema.get("prefixItems", [])
        return "list of " + " or ".join(dict.fromkeys(_type(part) for part in inner))
    if isinstance(schema.get("additionalProperties"), dict):
        return f"mapping of names to {_type(schema['additionalProperties'])}"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema]
    return " ".join([PLAIN.get(schema.get("type", ""), "anything"), ", ".join(bounds)]).strip()


def _yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case "":
            return '""'
        case bool():
            return str(value).lower()
        case dict():
            return ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) or "{}"
        case _:
            return str(value)


if __name__ == "__main__":
    TARGET.write_text(reference())
