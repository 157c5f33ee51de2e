"""Spec: the frozen, typo-proof base of everything a recipe can say."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

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
    reasons: dict[str, list[str]] = {}
    for details in error.errors(include_url=False):
        subject, reason = _mistake(details, spec)
        reasons.setdefault(subject, []).append(reason)
    # A value that fits no member of a union is one mistake, whatever the number of members.
    lines = [subject + ", or ".join(dict.fromkeys(said)) for subject, said in reasons.items()]
    return "\n".join(f"{where}: {line}" if where else line for line in lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: the nearest right one, and all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f": did you mean '{close[0]}'?" if close else "."
    return f"{hint} Known: {', '.join(known)}" if known else hint


def _mistake(details: ErrorDetails, spec: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and why."""
    loc, value, context = details["loc"], details["input"], details.get("ctx", {})
    if details["type"] == "extra_forbidden":
        path, at = _written(spec, loc[:-1])
        known = sorted({name for model in _models(at) for name in model.model_fields})
        return f"unknown key '{_dotted([*path, loc[-1]])}'", nearest(str(loc[-1]), known)
    key = _dotted(_written(spec, loc)[0])
    shown = f"'{key}': " if isinstance(value, Mapping) else f"'{key}' is {value!r}, but "
    match details["type"]:
        case "missing":
            return f"'{key}' is missing", ": add it"
        case "union_tag_invalid":
            tags, tag = _quoted(str(context["expected_tags"])), str(context["tag"])
            return f"'{key}.kind' is '{tag}'", f", which does not exist{nearest(tag, tags)}"
        case "union_tag_not_found":
            return f"'{key}' has no 'kind'", ": add one, for example {kind: …}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return shown, "it should be a mapping of keys to values"
        case "literal_error":
            known = _quoted(str(context["expected"]))
            hint = nearest(value, known).partition("?")[0] if isinstance(value, str) else ""
            return shown, _spoken(details["msg"]) + (f"{hint}?" if hint.startswith(":") else "")
        case _:
            return shown, _spoken(details["msg"])


def _spoken(message: str) -> str:
    reason = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"it {reason}" if reason.startswith("should") else reason


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _dotted(path: Sequence[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "recipe"


def _written(
    spec: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[list[int | str], list[Any]]:
    """`loc` as people write it, and the types that may stand there.

    Pydantic puts into its paths which member of a union it tried, which nobody writes.
    """
    path: list[int | str] = []
    at: list[Any] = [spec]
    for part in loc:
        chosen = [model for model in _models(at) if part in (_kind(model), model.__name__)]
        holders = [model for model in _models(at) if part in model.model_fields]
        if chosen and (len(_models(at)) > 1 or not holders):
            at = chosen
        elif holders:
            path.append(part)
            at = _leaves(model.model_fields[str(part)].annotation for model in holders)
        elif isinstance(part, int) or any(get_origin(leaf) is dict for leaf in at):
            path.append(part)
            at = _leaves(inner for leaf in at for inner in get_args(leaf))
    return path, at


def _models(at: list[Any]) -> list[type[BaseModel]]:
    return [leaf for leaf in at if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _leaves(annotations: Iterable[Any]) -> list[Any]:
    """The types behind annotations, with every union taken apart."""
    leaves: list[Any] = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is Annotated:
            leaves += _leaves(get_args(annotation)[:1])
        elif origin in (Union, UnionType):
            leaves += _leaves(get_args(annotation))
        else:
            leaves.append(annotation)
    return leaves
