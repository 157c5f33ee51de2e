"""Spec: the frozen, typo-proof base of everything a recipe can say."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from nexus.errors import UsageError


class Spec(BaseModel):
    """A frozen set of named values in which an unknown name is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Validate `values`, raising one `UsageError` that lists every mistake with its remedy."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UsageError(explain(error, cls, where)) from None


def explain(error: ValidationError, spec: type[BaseModel], where: str = "") -> str:
    """One line a mistake: the key, the value, and the nearest right name or the allowed values."""
    lines = [_line(details, spec) for details in error.errors(include_url=False)]
    return "\n".join(f"{where}: {line}" if where else line for line in lines)


def _line(details: ErrorDetails, spec: type[BaseModel]) -> str:
    path = [part for part in details["loc"] if not _is_union_tag(part, details["loc"], spec)]
    key = _dotted(path)
    value = details["input"]
    match details["type"]:
        case "extra_forbidden":
            known = sorted(_field_names(spec, details["loc"][:-1]))
            return f"unknown key '{key}'{_nearest(str(path[-1]), known)}"
        case "missing":
            return f"'{key}' is missing: add it"
        case "union_tag_invalid":
            context = details.get("ctx", {})
            tags = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",")]
            tag = str(context.get("tag", ""))
            return f"'{key}.kind' is '{tag}', which does not exist{_nearest(tag, tags)}"
        case "union_tag_not_found":
            return f"'{key}' has no 'kind': add one, for example {{kind: …}}"
        case _:
            reason = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return f"'{key}' is {value!r}, but {_spoken(reason)}"


def _spoken(reason: str) -> str:
    return f"it {reason}" if reason.startswith("should") else reason


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f": did you mean '{close[0]}'?" if close else "."
    return f"{hint} Known: {', '.join(known)}" if known else hint


def _dotted(path: list[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "recipe"


def _is_union_tag(part: int | str, loc: tuple[int | str, ...], spec: type[BaseModel]) -> bool:
    """Pydantic puts the tag of a discriminated union into the path; people do not write it."""
    if not isinstance(part, str):
        return False
    before = loc[: loc.index(part)]
    return part not in _field_names(spec, before) and any(
        part == model.model_fields["kind"].default
        for model in _models_at(spec, before)
        if "kind" in model.model_fields
    )


def _field_names(spec: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    return {name for model in _models_at(spec, loc) for name in model.model_fields}


def _models_at(spec: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models whose keys may stand at `loc`."""
    models = [spec]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged = [
            model
            for model in models
            if "kind" in model.model_fields and model.model_fields["kind"].default == part
        ]
        if tagged:
            models = tagged
            continue
        models = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in(model.model_fields[part].annotation)
        ]
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
