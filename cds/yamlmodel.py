"""A YAML file read into its shape: every fault with its line, in words for its author.

A shape is a pydantic model or a dataclass that pydantic checks. What pydantic finds is put into
words here, for all files alike: an unknown key names the nearest known one of that very shape,
an unknown word the nearest that may stand there.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from cds.errors import RuleError
from cds.yamlfile import Lines, load_yaml

__all__ = ["DURATION", "ID", "VERSION", "Fault", "check_model", "faults", "load_model", "nearest"]

M = TypeVar("M", bound=BaseModel)

ID: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
DURATION: Final = r"^P(\d{1,4}W|\d{1,5}D(T\d{1,5}H)?|T\d{1,5}H)$"
VERSION: Final = r"^\d+\.\d+\.\d+$"
_PATTERNS: Final = {
    ID: "write small letters, digits and hyphens, a letter first",
    DURATION: "write whole weeks, days or hours: P6W, P7D, PT12H",
    VERSION: "write three numbers: 1.0.0",
}


def load_model(
    model: type[M], path: Path, errors: list[RuleError]
) -> tuple[M | None, Lines | None]:
    """Read one YAML file into `model`; every fault is added to `errors`, nothing is raised.

    Returns the values, None where they are not as `model` wants them, and the lines of the
    file, None where it is no readable YAML.
    """
    try:
        data, lines = load_yaml(path)
    except RuleError as error:
        errors.append(error)
        return None, None
    return check_model(model, data, lines, path, errors), lines


def check_model(
    model: type[M], data: object, lines: Lines, path: str | Path, errors: list[RuleError]
) -> M | None:
    """Return what `cds.yamlfile` read as `model`, or None with every fault added to `errors`.

    A message begins with the place in the file: ``rules.0.when.1: unknown key 'whithin'; did
    you mean 'within'?``.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for fault in faults(model, error):
            keys = fault.at[:-1] if fault.names_key else fault.at
            where = ".".join(str(key) for key in keys)
            text = fault.text if fault.names_key else fault.text[0].lower() + fault.text[1:]
            message = f"{where}: {text}" if where else text
            errors.append(RuleError(message, path=str(path), line=lines.of(fault.at)))
        return None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name that is most like `name`, else "".

    >>> nearest("famly", ["family", "finding"])
    "; did you mean 'family'?"
    """
    import difflib  # only an error needs it

    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


# ---------------------------------------------------------------- what pydantic found, in words


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the keys and indexes that lead to it, and what is wrong.

    `names_key` says that `text` names the last key of `at` itself.
    """

    at: tuple[str | int, ...]
    text: str
    names_key: bool = False


def faults(shape: Any, error: ValidationError) -> Iterator[Fault]:
    """Yield what is wrong with data that should have had this shape."""
    all_found = error.errors(include_url=False)
    for found in all_found:
        at, parent, here = _walk(shape, found["loc"])
        name, given, message = (at[-1] if at else "the file"), found["input"], found["msg"]
        match found["type"]:
            case "too_short" if any(_inside(found["loc"], other["loc"]) for other in all_found):
                continue  # faulty items count as missing ones; they are named themselves
            case "too_short" if not given:
                yield Fault(at, "needs at least one entry")
            case "tuple_type" | "list_type":
                yield Fault(at, "must be a list")
            case "model_type" | "dataclass_type" | "dict_type" | "mapping_type":
                yield Fault(at, "must be keys with values (key: value)")
            case "extra_forbidden" | "unexpected_keyword_argument":
                known = [key for arm in parent for key in _members(arm)]
                yield Fault(at, f"unknown key '{name}'{nearest(str(name), known)}", True)
            case "missing":
                yield Fault(at, f"key '{name}' is missing", True)
            case "string_type":
                quotes = "put a number or a word such as true in quotes"
                yield Fault(at, f"'{name}' must be text; {quotes}", True)
            case "literal_error" if words := [w for arm in here for w in get_args(arm)]:
                hint = nearest(str(given), words)
                yield Fault(at, f"'{given}' is none of {', '.join(map(str, words))}{hint}")
            case "string_pattern_mismatch" if found["ctx"]["pattern"] in _PATTERNS:
                yield Fault(at, f"'{given}': {_PATTERNS[found['ctx']['pattern']]}")
            case _:
                hint = _nearest_tag(given, here)
                yield Fault(at, message.removeprefix("Value error, ") + hint)


def _inside(loc: tuple[str | int, ...], other: tuple[str | int, ...]) -> bool:
    return len(other) > len(loc) and other[: len(loc)] == loc


def _nearest_tag(given: object, arms: list[Any]) -> str:
    """Name the word that would have told which shape is meant, if a key is much like it."""
    if not isinstance(given, Mapping):
        return ""
    tags = [tag for arm in arms if (tag := _tag(arm))]
    hints = ((key, nearest(str(key), tags)) for key in given)
    return next((f" (for '{key}'{hint})" for key, hint in hints if hint), "")


# ---------------------------------------------------------------- the shape at a place


def _walk(
    shape: Any, loc: tuple[str | int, ...]
) -> tuple[tuple[str | int, ...], list[Any], list[Any]]:
    """Follow a location of pydantic from a shape.

    Returns the location without the names of union members, which the file does not have, and
    the shapes that may stand at its parent and at the location itself.
    """
    at: list[str | int] = []
    parent: list[Any] = []
    here = _arms(shape)
    for part in loc:
        if part == "[key]":  # a key of a mapping, which is at fault itself
            continue
        if len(here) > 1:  # pydantic puts in which member of the union it means
            named = [arm for arm in here if part in (_tag(arm), getattr(_bare(arm), "__name__", 0))]
            here = named or here
            if named:
                continue
        parent = [_bare(arm) for arm in here]
        here = [arm for p in parent for arm in _arms(_members(p).get(part, _item(p)))]
        at.append(part)
    return tuple(at), parent, here


def _arms(shape: Any) -> list[Any]:
    """Return the members of a union but None, each perhaps `Annotated` with its tag."""
    if get_origin(shape) is Annotated and not _tag(shape):
        return _arms(_bare(shape))
    if get_origin(shape) in (Union, UnionType):
        return [arm for member in get_args(shape) for arm in _arms(member)]
    return [] if shape in (None, NoneType) else [shape]


def _bare(shape: Any) -> Any:
    return get_args(shape)[0] if get_origin(shape) is Annotated else shape


def _tag(shape: Any) -> str | None:
    return next((m.tag for m in getattr(shape, "__metadata__", ()) if isinstance(m, Tag)), None)


def _members(shape: Any) -> Mapping[Any, Any]:
    """Return the keys of a model or dataclass with their shapes; nothing for all else."""
    if not isinstance(shape, type):
        return {}
    if issubclass(shape, BaseModel):
        names: Iterable[str] = shape.model_fields
    elif dataclasses.is_dataclass(shape):
        names = [field.name for field in dataclasses.fields(shape)]
    else:
        return {}
    hints = typing.get_type_hints(shape, include_extras=True)
    return {name: hints[name] for name in names}


def _item(shape: Any) -> Any:
    """Return the shape of the items of a list or of the values of a mapping, else None."""
    arguments = get_args(shape)
    if not arguments or get_origin(shape) is Literal:
        return None
    is_mapping = isinstance(get_origin(shape), type) and issubclass(get_origin(shape), Mapping)
    return arguments[1] if is_mapping else arguments[0]
