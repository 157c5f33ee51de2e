"""Spec: the frozen, typo-proof base of everything a recipe can say."""

from __future__ import annotations

import datetime
import difflib
import functools
import re
import reprlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from nexus.errors import LONGEST, UsageError, shortened

Location = tuple[int | str, ...]


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
    for details in _deepest(error, spec):
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


def shown(value: Any) -> str:
    """A value as people wrote it; of a long one the beginning, of a deep one the outside."""
    return shortened(_SHORT.repr(value))


def _deepest(error: ValidationError, spec: type[BaseModel]) -> list[ErrorDetails]:
    """Without those about a whole that has the right form, and whose part is wrong."""
    found = error.errors(include_url=False)
    paths = [_place_of(details, spec) for details in found]
    wholes = {path[:length] for path in paths for length in range(len(path))}
    pairs = zip(paths, found, strict=True)
    return [details for path, details in pairs if path not in wholes] or found


def _place_of(details: ErrorDetails, spec: type[BaseModel]) -> Location:
    loc = details["loc"]
    if details["type"] == "extra_forbidden":  # its key is in no spec
        return (*_written(spec, loc[:-1])[0], loc[-1])
    return tuple(_written(spec, loc)[0])


def _mistake(details: ErrorDetails, spec: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and why."""
    loc, value, context = details["loc"], details["input"], details.get("ctx", {})
    if details["type"] == "extra_forbidden":
        return _unknown(loc, spec)
    path, at = _written(spec, loc)
    key = _dotted(path)
    subject = f"'{key}': " if isinstance(value, Mapping) else f"'{key}' is {shown(value)}, but "
    match details["type"]:
        case "missing":
            return f"'{key}' is missing", ": add it"
        case "union_tag_invalid":
            tags, tag = _quoted(str(context["expected_tags"])), shortened(str(context["tag"]))
            return f"'{key}.kind' is '{tag}'", f", which does not exist{nearest(tag, tags)}"
        case "union_tag_not_found":
            kinds = sorted(str(_kind(model)) for model in _models(at) if _kind(model))
            return f"'{key}' has no 'kind'", f": add one of {', '.join(kinds)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return subject, "it should be a mapping of keys to values"
        case "tuple_type":
            return subject, "it should be a list"
        case "string_type" if isinstance(value, bool | int | float | datetime.date):
            return subject, f"{_spoken(details['msg'])}: put it in quotes"
        case "literal_error":
            known = _quoted(str(context["expected"]))
            hint = nearest(value, known).partition("?")[0] if isinstance(value, str) else ""
            return subject, _spoken(details["msg"]) + (f"{hint}?" if hint.startswith(":") else "")
        case _:
            return subject, _spoken(details["msg"])


def _unknown(loc: Location, spec: type[BaseModel]) -> tuple[str, str]:
    """A key that nothing is known of here; perhaps elsewhere, or if `kind` were another."""
    name = str(loc[-1])
    path, at = _written(spec, loc[:-1])
    known = sorted({field for model in _models(at) for field in model.model_fields})
    hint = nearest(name, known)
    if hint.startswith(":"):
        if below := _place(tuple(path), at, name):  # the very name is better than one alike
            hint = f": did you mean '{below}'? Known: {', '.join(known)}"
    else:
        others = [_kind(model) for model in _models(_written(spec, loc[:-2])[1])
                  if name in model.model_fields]  # fmt: skip
        place = next(filter(None, (_place(tuple(path), at, name), _place((), [spec], name))), "")
        if any(others):
            hint = f": it belongs to kind {' or '.join(map(str, others))}{hint}"
        elif place:
            hint = f": did you mean '{place}'{hint.replace('.', '?', 1)}"
    return f"unknown key '{shortened(_dotted([*path, name]))}'", hint


def _place(path: Location, at: list[Any], name: str) -> str:
    """Where below `path` a key of this name belongs, the shortest way; or nothing."""
    waiting = deque((path, model) for model in _models(at))
    seen: set[type[BaseModel]] = set()
    while waiting:
        path, model = waiting.popleft()
        if name in model.model_fields:
            return _dotted([*path, name])
        if model not in seen:
            seen.add(model)
            for field, leaves in _inside(model).items():
                inner = _leaves(part for leaf in leaves for part in get_args(leaf))
                waiting += [((*path, field), one) for one in _models(leaves)]
                waiting += [((*path, field, 0), one) for one in _models(inner)]
    return ""


def _spoken(message: str) -> str:
    """What pydantic says, in the words of recipes."""
    reason = re.sub("^(Value error, |Input |(Tuple|List) (?=should))", "", message)
    reason = reason.replace("valid tuple", "list").replace(" after validation", "")
    return f"it {reason}" if reason.startswith("should") else reason


class _Short(reprlib.Repr):
    """`repr` that ends, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, LONGEST, LONGEST
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 8

    def repr_int(self, x: int, level: int) -> str:
        return hex(x)[:20] + "…" if x.bit_length() > 128 else repr(x)


_SHORT = _Short()


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
            at = [leaf for model in holders for leaf in _inside(model)[str(part)]]
        elif isinstance(part, int) or any(get_origin(leaf) is dict for leaf in at):
            path.append(part)
            at = _leaves(inner for leaf in at for inner in get_args(leaf))
    return path, at


def _models(at: list[Any]) -> list[type[BaseModel]]:
    return [leaf for leaf in at if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


@functools.cache
def _inside(model: type[BaseModel]) -> dict[str, list[Any]]:
    """The types that each field of a model may have."""
    return {name: _leaves([field.annotation]) for name, field in model.model_fields.items()}


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
