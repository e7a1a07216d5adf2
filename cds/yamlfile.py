"""A strict reader of YAML files: every key has a line, nothing is guessed.

The language is a small, safe part of YAML 1.2: one document, no tags, no anchors, aliases
or merge keys, no key twice. Plain scalars mean what they look like: ``true`` and ``false``
are the only booleans, ``null``, ``~`` and nothing are None, a decimal number is a `Decimal` with
the digits that were written (``3.50`` stays 3.50), and all else (``no``, ``2026-11-21``,
``007``, ``1e3``) is text. Quoted and block scalars are always text, and so is every key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

from cds.errors import RuleError

__all__ = ["Lines", "load_yaml", "parse_yaml"]

# libyaml is many times faster; PyYAML is also built without it.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
}
# What a plain scalar begins with that means anything but itself: a number or a word.
_MEANS: Final = frozenset("-0123456789") | {word[:1] for word in _WORDS}


class Lines:
    """Where every key and item of one loaded file stands."""

    __slots__ = ("_at", "_data", "_first")

    def __init__(self, data: object, first: int, at: dict[int, dict[Any, int]]) -> None:
        # Keyed by identity of the dict or list; holding the data keeps these identities valid.
        self._data, self._first, self._at = data, first, at

    def of(self, path: tuple[str | int, ...] = ()) -> int:
        """The 1-based line of the key or item at `path`, as ``("rules", 3, "when")``.

        A part that the file does not have (a missing key, the tag of a union in the location
        of a pydantic error) is passed over, so that the nearest line above is given.
        """
        node, line = self._data, self._first
        for part in path:
            found = self._at.get(id(node), {}).get(part)
            if found is not None:
                line = found
                node = node[part]  # type: ignore[index]  # in _at, so a dict or list with it
        return line


def load_yaml(path: Path) -> tuple[object, Lines]:
    """The data of one YAML file (dict, list, str, Decimal, bool, None) and its lines.

    Raises:
        RuleError: the file cannot be read or is not in the accepted part of YAML, with file
            and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RuleError(f"cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise RuleError("is not UTF-8; save it as UTF-8", path=str(path)) from error
    return parse_yaml(text, path=str(path))


def parse_yaml(text: str, *, path: str = "") -> tuple[object, Lines]:
    """As `load_yaml`, for text; `path` is the name used in errors.

    Raises:
        RuleError: as for `load_yaml`.
    """
    return _Reader(text, path).read()


class _Reader:
    """One pass over the parser's events."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path = text, path
        self.next: Callable[[], Any]  # event by event: the parser's own way, and the fastest
        self.at: dict[int, dict[Any, int]] = {}

    def read(self) -> tuple[object, Lines]:
        try:
            self.next = _LOADER(self.text).get_event
            self.next()  # start of stream
            start = self.next()
            if isinstance(start, yaml.StreamEndEvent):
                raise RuleError("the file is empty", path=self.path)
            event = self.next()
            first = _line(event)
            data = self.node(event)
            self.next()  # end of document
            more = self.next()
            if not isinstance(more, yaml.StreamEndEvent):
                raise self.error(more, "a second document starts here; use one file for each")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = f"not valid YAML: {error.problem or error.context}"
            raise _at(mark, message, self.path) from error
        except RecursionError as error:
            raise RuleError("lists or mappings are nested too deeply", path=self.path) from error
        except yaml.YAMLError as error:  # a character that YAML does not allow
            raise _forbidden(self.text, self.path) from error
        return data, Lines(data, first, self.at)

    def node(self, event: Any) -> object:
        kind = type(event)
        if kind is yaml.AliasEvent:
            raise self.error(event, f"alias '*{event.anchor}' is not accepted; write it out")
        if event.anchor is not None:
            raise self.error(event, f"anchor '&{event.anchor}' is not accepted; write it out")
        if event.tag is not None:
            raise self.error(event, f"tag '{event.tag}' is not accepted; leave it out")
        if kind is yaml.ScalarEvent:
            return _scalar(event.value) if event.implicit[0] else event.value
        return self.mapping() if kind is yaml.MappingStartEvent else self.sequence()

    def mapping(self) -> dict[str, object]:
        data: dict[str, object] = {}
        lines: dict[Any, int] = {}
        take, node, scalar = self.next, self.node, yaml.ScalarEvent
        end = yaml.MappingEndEvent
        while type(event := take()) is not end:
            if type(event) is not scalar or event.anchor or event.tag:
                raise self.error(event, "a key must be plain text")
            key = event.value
            if key == "<<":
                raise self.error(event, "merge key '<<' is not accepted; write it out")
            if key in data:
                raise self.error(event, f"key '{key}' stands twice; first on line {lines[key]}")
            mark: Any = event.start_mark
            lines[key] = mark.line + 1
            event = take()
            # Most values are text in quotes or blocks, or plain words: no call for these.
            if type(event) is scalar and event.anchor is None and event.tag is None:
                text = event.value
                data[key] = _scalar(text) if event.implicit[0] and text[:1] in _MEANS else text
            else:
                data[key] = node(event)
        self.at[id(data)] = lines
        return data

    def sequence(self) -> list[object]:
        data: list[object] = []
        lines: dict[Any, int] = {}
        take, node, end = self.next, self.node, yaml.SequenceEndEvent
        while type(event := take()) is not end:
            lines[len(data)] = event.start_mark.line + 1
            data.append(node(event))
        self.at[id(data)] = lines
        return data

    def error(self, event: Any, message: str) -> RuleError:
        return _at(event.start_mark, message, self.path)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _at(mark: Any, message: str, path: str) -> RuleError:
    """The error at a mark of PyYAML, which counts lines and columns from 0."""
    if mark is None:
        return RuleError(message, path=path)
    return RuleError(message, path=path, line=mark.line + 1, column=mark.column + 1)


def _forbidden(text: str, path: str) -> RuleError:
    """Name the first character that no YAML text may hold (YAML 1.2.2, section 5.1)."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found is None:
        return RuleError("not valid YAML: it holds a character that is not allowed", path=path)
    before = text[: found.start()].split("\n")
    return RuleError(
        f"not valid YAML: the character U+{ord(found[0]):04X} is not allowed; remove it",
        path=path,
        line=len(before),
        column=len(before[-1]) + 1,
    )


def _scalar(text: str) -> object:
    """What a plain (not quoted) scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    return Decimal(text) if _NUMBER.fullmatch(text) else text
