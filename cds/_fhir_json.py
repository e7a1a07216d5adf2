"""Bytes to JSON values: at once where they are sound, piece by piece where they are not.

A Bundle that the fast parser refuses is cut into its entries by matching brackets, a list into
its members and a text of one value a line into its lines. Each piece is then parsed alone, so
that one NaN, one lone surrogate, one entry nested 10,000 deep or a cut-off end costs no more
than that piece, and the place of the fault is known. The same cutting reads very large Bundles
without ever holding the whole of them as Python values.

This module knows nothing of FHIR but the names ``resourceType`` and ``entry``.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

import orjson
import simdjson

__all__ = ["LARGE", "Decoded", "Doubled", "Part", "Sparse", "decode", "lines", "parse_checked"]

Buffer = bytes | mmap.mmap
Parse = Callable[[bytes], object]

# Above this many bytes a text is read piece by piece even where it is sound: the parsed values
# take about six times the room of the text.
LARGE: Final = 32 * 1024 * 1024

# Below this many bytes there is nothing to gain from leaving anything out.
_SMALL: Final = 32 * 1024

# Up to the next bracket that is not inside a string.
_BRACKET: Final = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
_ENTRY_KEY: Final = re.compile(rb'"entry"\s*:\s*\Z')
_TYPE: Final = re.compile(rb'"resourceType"\s*:\s*"(\w+)"')
_BLANK: Final = b" \t\r\n"
_CUT_OFF: Final = "the text is cut off here"


class Doubled(dict[str, object]):
    """A JSON object with a key that was written twice (the last one counts, as in orjson)."""


class Part(NamedTuple):
    """One value and where it stood ("b.json entry[4]", "a.ndjson:3"), or why there is none."""

    where: str
    value: object
    error: str = ""


class Decoded(NamedTuple):
    """What a text holds: one "value", the "entries" of one Bundle, or loose "values".

    `notes` say what had to be overlooked in the text as a whole.
    """

    kind: Literal["value", "entries", "values"]
    parts: Iterable[Part]
    notes: tuple[str, ...] = ()


class Sparse:
    """Parses JSON as orjson does, but of a Bundle only the resources of some types wholly.

    Of any other resource only its ``resourceType`` is kept, and of its entry the ``fullUrl``: most
    of a real record is claims and encounters, which no rule looks at. The whole text is checked
    all the same, and what simdjson refuses goes to orjson. Where an entry or a resource has a key
    twice, which JSON leaves open, here the first one says whether it is wanted.

    Args:
        types: the types of the resources that are wanted.
    """

    def __init__(self, types: Collection[str]) -> None:
        self._types = frozenset(types) | {"Bundle"}
        self._parser = simdjson.Parser()

    def __call__(self, data: bytes) -> object:
        """Return the value of a text. Raises: orjson.JSONDecodeError."""
        if len(data) >= _SMALL and not data.startswith(b"\xef\xbb\xbf"):
            try:
                found = self._bundle(self._parser.parse(data))
            except (ValueError, RuntimeError, RecursionError):
                found = None  # orjson says why, and perhaps knows better
            if found is not None:
                return found
        return orjson.loads(data)

    def _bundle(self, value: Any) -> dict[str, object] | None:
        if type(value) is not simdjson.Object or value.get("resourceType") != "Bundle":
            return None
        sent: Any = value.get("entry")
        if type(sent) is not simdjson.Array or list(value.keys()).count("entry") > 1:
            return None
        return {"resourceType": "Bundle", "entry": [self._entry(entry) for entry in sent]}

    def _entry(self, entry: Any) -> object:
        if type(entry) is simdjson.Object:
            resource = entry.get("resource")
            if type(resource) is simdjson.Object:
                name = resource.get("resourceType")
                if type(name) is str and name not in self._types:
                    url = entry.get("fullUrl")
                    if type(url) is str or url is None:
                        return {"fullUrl": url, "resource": {"resourceType": name}}
            whole: object = entry.as_dict()
            return whole
        return entry.as_list() if type(entry) is simdjson.Array else entry


def parse_checked(data: bytes) -> object:
    """Parse JSON with numbers as Decimal and objects with doubled keys as `Doubled`.

    Slower than orjson; for strict reading. Raises: orjson.JSONDecodeError.
    """
    orjson.loads(data)  # accept exactly what the fast reader accepts
    import json
    from decimal import Decimal

    def keep(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        return found if len(found) == len(pairs) else Doubled(found)

    try:
        return json.loads(data, object_pairs_hook=keep, parse_float=Decimal)
    except RecursionError:
        raise orjson.JSONDecodeError("depth limit exceeded", "", 0) from None


def decode(
    data: Buffer, where: str, parse: Parse = orjson.loads, *, by_line: bool = False
) -> Decoded:
    """Return the JSON values of a text, whatever can be saved of it.

    `by_line` says that the sender means one value a line; otherwise that is found out.

    Never raises for what the text holds: a piece that cannot be parsed is a `Part` with an
    error that names line and byte.
    """
    refused: orjson.JSONDecodeError | None = None
    if len(data) <= LARGE:
        try:
            return Decoded("value", [Part(where, parse(bytes(data)))])
        except orjson.JSONDecodeError as error:
            refused = error
    recoded = _utf8(data)
    if recoded is not None:
        found = decode(recoded[0], where, parse, by_line=by_line)
        return found._replace(notes=(recoded[1], *found.notes))
    if not data[:4096].strip(_BLANK) and not bytes(data).strip(_BLANK):
        return Decoded("value", [Part(where, None, "it is empty")])
    if by_line or _one_value_a_line(data):
        return Decoded("values", lines(bytes(data).splitlines(keepends=True), where, parse))
    found_array = _array(data)
    if found_array is not None:
        kind, start = found_array
        return Decoded(kind, _Cutter(data, where, parse, kind, start).parts())
    try:
        return Decoded("value", [Part(where, parse(bytes(data)))])
    except orjson.JSONDecodeError as error:
        offset, reason = _fault(bytes(data), refused or error)
        line = data[:offset].count(b"\n") + 1
        return Decoded("value", [Part(f"{where}:{line}", None, _message(reason, offset))])


def lines(texts: Iterable[bytes], where: str, parse: Parse = orjson.loads) -> Iterator[Part]:
    """Yield the value of each line that is not blank (newline-delimited JSON)."""
    offset = 0
    for number, text in enumerate(texts, 1):
        # A byte order mark at the start of the first line is common and harmless.
        line = text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text
        if line.strip(_BLANK):
            try:
                yield Part(f"{where}:{number}", parse(line))
            except orjson.JSONDecodeError as error:
                at, reason = _fault(line, error)
                at += offset + len(text) - len(line)
                yield Part(f"{where}:{number}", None, _message(reason, at))
        offset += len(text)


def _utf8(data: Buffer) -> tuple[bytes, str] | None:
    """The text as plain UTF-8 and a note on what it was; None where it has no such sign."""
    head = data[:4]
    if head.startswith(b"\xef\xbb\xbf"):
        return data[3:], "the text begins with a byte order mark, which JSON does not have"
    import json

    encoding = json.detect_encoding(head)
    if encoding in ("utf-8", "utf-8-sig"):
        return None
    try:
        return bytes(data).decode(encoding).encode(), f"the text is {encoding}; JSON is UTF-8"
    except UnicodeError:
        return None


def _one_value_a_line(data: Buffer) -> bool:
    """Whether a text that is not one JSON value holds a resource on each line.

    Every line must begin like an object, and one of the first two must be a whole resource.
    """
    first = data.find(b"\n")
    if first < 0 or first > LARGE:
        return False
    seen = 0
    for line in bytes(data[: first + LARGE]).splitlines():
        text = line.strip(_BLANK)
        if not text:
            continue
        if not text.startswith(b"{"):
            return False
        seen += 1
        if seen <= 2:
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict) and "resourceType" in value:
                return True
        else:
            return False
    return False


def _array(data: Buffer) -> tuple[Literal["entries", "values"], int] | None:
    """Where the members of a list, or of a Bundle's ``entry``, begin; None for anything else."""
    match = _BRACKET.match(data)
    if match is None or match[1] in b"}]":
        return None
    if match[1] == b"[":
        return "values", match.end()
    depth, found = 1, None
    while depth and (match := _BRACKET.match(data, match.end())):
        if depth == 1:
            before = data[match.start() : match.end() - 1]
            name = _TYPE.search(before)
            if name is not None and name[1] != b"Bundle":
                return None
            if found is None and match[1] == b"[" and _ENTRY_KEY.search(before):
                found = match.end()
                if name is not None:
                    break
                # The type may have stood before, or still follow the entries.
        depth += 1 if match[1] in b"{[" else -1
    return None if found is None else ("entries", found)


class _Cutter:
    """Cuts the members out of one list inside a text, and parses each alone."""

    def __init__(
        self, data: Buffer, where: str, parse: Parse, kind: Literal["entries", "values"], start: int
    ) -> None:
        self.data, self.where, self.parse, self.start = data, where, parse, start
        self.name = f"{where} entry" if kind == "entries" else where
        self._counted, self._lines = 0, 1

    def parts(self) -> Iterator[Part]:
        """Yield every member, then what is wrong between and around them."""
        gaps = [0]  # begin of each stretch that belongs to no member, and its end
        index = -1
        for index, (begin, end) in enumerate(self._members()):
            where = f"{self.name}[{index}]"
            if end < 0:
                yield Part(where, None, _message(_CUT_OFF, len(self.data), self._line(begin)))
                return
            piece = bytes(self.data[begin:end])
            gaps += (begin, end)
            try:
                yield Part(where, self.parse(piece))
            except orjson.JSONDecodeError as error:
                offset, reason = _fault(piece, error)
                offset += begin
                yield Part(where, None, _message(reason, offset, self._line(offset)))
        gaps.append(len(self.data))
        yield from self._shell(gaps, index + 1)

    def _members(self) -> Iterator[tuple[int, int]]:
        """Begin and end of every bracketed member; end -1 where the text ends inside it."""
        depth, begin, position = 0, 0, self.start
        while match := _BRACKET.match(self.data, position):
            position = match.end()
            if match[1] in b"{[":
                if depth == 0:
                    begin = position - 1
                depth += 1
            else:
                depth -= 1
                if depth < 0:
                    return
                if depth == 0:
                    yield begin, position
        if depth:
            yield begin, -1

    def _shell(self, gaps: list[int], count: int) -> Iterator[Part]:
        """Check the text with a 0 in place of each member: commas, brackets, the other keys."""
        stretches = [bytes(self.data[gaps[i] : gaps[i + 1]]) for i in range(0, len(gaps), 2)]
        shell = b"0".join(stretches)
        try:
            orjson.loads(shell)
        except orjson.JSONDecodeError as error:
            offset, reason = _fault(shell, error)
            for i, stretch in enumerate(stretches):
                if offset <= len(stretch):
                    offset += gaps[2 * i]
                    break
                offset -= len(stretch) + 1
            self._counted, self._lines = 0, 1
            read = f"; read in spite of it: {count} member(s) of the list"
            line = self._line(offset)
            yield Part(f"{self.where}:{line}", None, _message(reason, offset) + read)

    def _line(self, offset: int) -> int:
        """The 1-based line of a byte; cheap as long as the bytes asked for ascend."""
        self._lines += bytes(self.data[self._counted : offset]).count(b"\n")
        self._counted = offset
        return self._lines


def _fault(text: bytes, error: orjson.JSONDecodeError) -> tuple[int, str]:
    """The byte where a text stops being JSON, and why in words."""
    try:
        offset = len(text.decode()[: error.pos].encode())
    except UnicodeDecodeError as undecodable:
        return undecodable.start, "a byte that is not UTF-8"
    if text[max(offset - 1, 0) :].lstrip(b" :[,").startswith((b"NaN", b"Infinity", b"-Infinity")):
        return offset, "NaN and Infinity are not JSON numbers"
    if "infinity" in error.msg:
        return offset, "a number too large to be a value"
    if "surrogate" in error.msg:
        return offset, "half of a surrogate pair in a string"
    if "depth" in error.msg:
        return offset, "nested too deep"
    if "end of data" in error.msg:
        return offset, _CUT_OFF
    return offset, error.msg


def _message(reason: str, offset: int, line: int = 0) -> str:
    place = f"line {line}, byte {offset}" if line else f"byte {offset}"
    return f"not JSON at {place}: {reason}"
