"""Read: from what senders really send to one `Record` a patient, and what could not be used.

Every Bundle is a scope of its own; all loose resources and lines of one call are one scope. In
a scope, patients are told apart by reference, the same resource counts once, and references to
Medications and Specimens are followed. Neither order nor repetition of resources matters.

Only what a rule can need is parsed: codes are looked up first, and most of a real record ends
there. `strict` validates each used resource wholly with fhir.resources (R4B, else R5).
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from cds._fhir_json import LARGE, Decoded, Doubled, Part, Sparse, decode, lines, parse_checked
from cds._fhir_parts import Json, Terms
from cds._fhir_resources import Resources
from cds._fhir_scope import NOT_FHIR, ReadLog, Rejected, Scope, Twins
from cds.errors import UsageError
from cds.model import Problem, Record

__all__ = ["ReadLog", "Reader", "Rejected", "TwinReader"]

_AnyScope = Scope | Twins
_SUFFIXES: Final = (".json", ".ndjson", ".json.gz", ".ndjson.gz")


class Reader:
    """Reads FHIR JSON into Records; build once, use for every input.

    Args:
        terminology: says what codes mean (`cds.terminology.Terminology`).
        wanted: ids of the analytes and value sets that the loaded rules need; what is known but
            not wanted is skipped as cheaply as what is not known. None: all of them.
        strict: validate each used resource wholly, and refuse what is not valid.
    """

    def __init__(
        self,
        terminology: Terms,
        *,
        wanted: Collection[str] | None = None,
        strict: bool = False,
    ) -> None:
        self._resources, self._strict = Resources(terminology, wanted), strict
        self._parse: Callable[[bytes], object] = (
            parse_checked if strict else Sparse(self._resources.kinds)
        )

    def read(self, source: Any, log: ReadLog, *, where: str = "input") -> Iterator[Record]:
        """Yield a Record for each patient in `source`.

        `source` is JSON as bytes or text, a path (text that does not begin like JSON), a dict,
        a fhir.resources object, or an iterable of dicts and such objects. What cannot be used
        is added to `log`; a Bundle's Records come as soon as it is read, those of loose resources
        at the end.

        Raises:
            UsageError: `source` is none of these.
        """
        loose = self._scope(log, "loose resources", bundle=False)
        if isinstance(source, str):
            if not source.lstrip().startswith(("{", "[")):
                yield from self.read_paths([source], log)
                return
            source = source.encode("utf-8", "surrogatepass")  # refused with its place, not here
        if isinstance(source, os.PathLike):
            yield from self.read_paths([Path(source)], log)
            return
        if isinstance(source, bytes | bytearray | memoryview):
            yield from self._decoded(decode(bytes(source), where, self._parse), where, loose, log)
        elif isinstance(source, Mapping) or hasattr(source, "model_dump_json"):
            yield from self._value(source, where, loose, log)
        elif source is None or isinstance(source, bool | int | float | Decimal):
            log.skip(NOT_FHIR)
        elif isinstance(source, Iterable):
            for index, each in enumerate(source):
                yield from self._value(each, f"{where}[{index}]", loose, log)
        else:
            raise UsageError(
                f"cannot read a {type(source).__name__}; give JSON, a path, a dict, resources"
            )
        yield from loose.records()

    def read_paths(
        self, paths: Sequence[str | Path], log: ReadLog, *, stdin: BinaryIO | None = None
    ) -> Iterator[Record]:
        """Yield a Record for each patient in files, folders and "-" (standard input).

        A folder is searched for ``*.json``, ``*.ndjson`` and ``.gz`` of both, in sorted order; a
        file named by itself is read whatever its name. No file is read twice.
        """
        loose = self._scope(log, "loose resources", bundle=False)
        done: set[str] = set()
        for path in paths:
            if str(path) == "-":
                data = (stdin or sys.stdin.buffer).read()
                log.files += 1
                found = decode(data, "standard input", self._parse)
                yield from self._decoded(found, "standard input", loose, log)
                continue
            for name in _files(str(path), log):
                real = os.path.realpath(name)
                if real not in done:
                    done.add(real)
                    yield from self._file(name, loose, log)
        yield from loose.records()

    def _scope(self, log: ReadLog, where: str = "", *, bundle: bool) -> _AnyScope:
        validate = _invalid if self._strict else None
        return Scope(self._resources, log, where=where, bundle=bundle, validate=validate)

    def _file(self, name: str, loose: _AnyScope, log: ReadLog) -> Iterator[Record]:
        try:
            with open(name, "rb") as file:
                log.files += 1
                stream: Any = file
                if file.peek(2)[:2] == b"\x1f\x8b":
                    import gzip

                    stream = gzip.GzipFile(fileobj=file)
                elif not name.endswith(".ndjson") and _size(file) > LARGE:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                        found = decode(text, name, self._parse)
                        yield from self._decoded(found, name, loose, log)
                    return
                by_line = name.removesuffix(".gz").endswith(".ndjson")
                if by_line:
                    found = self._by_line(stream, name)
                else:
                    found = decode(stream.read(), name, self._parse)
                yield from self._decoded(found, name, loose, log)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or "the compressed data is damaged"
            log.reject(name, f"cannot be read: {reason}")

    def _by_line(self, stream: Any, name: str) -> Decoded:
        """Read line by line if the first one is a value, so that the size does not matter."""
        head: list[bytes] = []
        for line in stream:
            head.append(line)
            if line.strip():
                break
        try:
            if head:
                orjson.loads(head[-1])
            return Decoded("values", lines(chain(head, stream), name, self._parse))
        except orjson.JSONDecodeError:
            rest = b"".join(head) + stream.read()
            return decode(rest, name, self._parse, by_line=True)

    def _decoded(
        self, found: Decoded, where: str, loose: _AnyScope, log: ReadLog
    ) -> Iterator[Record]:
        for note in found.notes:
            log.problems.append(Problem("warning", "encoding", None, "", f"{where}: {note}"))
        if found.kind == "entries":
            yield from self._entries(found.parts, where, log)
            return
        for part in found.parts:
            if part.error:
                log.reject(part.where, part.error)
            else:
                yield from self._value(part.value, part.where, loose, log, ours=True)

    def _value(
        self, value: Any, where: str, loose: _AnyScope, log: ReadLog, *, ours: bool = False
    ) -> Iterator[Record]:
        """Read one value: a Bundle, a resource, or a list of these; `ours` may be used up."""
        if hasattr(value, "model_dump_json"):
            # What goes over the wire: neither Decimal nor date arrive otherwise than from JSON.
            try:
                value = orjson.loads(value.model_dump_json())
            except ValueError:
                log.reject(where, "this object cannot be written as JSON")
                return
        if isinstance(value, list | tuple) and value:
            for index, each in enumerate(value):
                if isinstance(each, dict):
                    yield from self._value(each, f"{where}[{index}]", loose, log)
                else:
                    log.skip(NOT_FHIR)
        elif not isinstance(value, Mapping):
            log.skip(NOT_FHIR)
        elif value.get("resourceType") == "Bundle":
            scope = self._bundle(value, where, log, ours=ours)
            if scope is not None:
                yield from self._finish(scope, log)
        else:
            loose.add(value, where)

    def _bundle(self, bundle: Json, where: str, log: ReadLog, *, ours: bool) -> _AnyScope | None:
        """Take in the entries of one Bundle; None where it has none."""
        entries = bundle.get("entry")
        if isinstance(bundle, Doubled):
            log.reject(where, "a key of the Bundle is written twice; the last one was read")
        if entries is None:
            log.skip("Bundle")
            return None
        if isinstance(entries, dict):
            log.note("wrong-type", where, "entry is one object where a list belongs; used")
            entries = [entries]
        if not isinstance(entries, list | tuple):
            log.reject(where, "Bundle.entry is not a list")
            return None
        scope = self._scope(log, where, bundle=True)
        scope.entries(entries, where)
        if ours and isinstance(entries, list):
            entries.clear()  # freed now, while it is in the caches of the processor
        return scope

    def _entries(self, parts: Iterable[Part], where: str, log: ReadLog) -> Iterator[Record]:
        """Read the entries of a Bundle that was cut into them."""
        scope = self._scope(log, where, bundle=True)
        for part in parts:
            if part.error:
                log.reject(part.where, part.error)
            else:
                scope.entry(part.value, part.where, -1)
        yield from self._finish(scope, log)

    def _finish(self, scope: _AnyScope, log: ReadLog) -> Iterator[Record]:
        """Yield the Records of a Bundle, then those of the Bundles in it."""
        yield from scope.records()
        # Not by recursion: Bundles may be nested deeper than Python's stack.
        waiting = deque(scope.nested)
        while waiting:
            bundle, where = waiting.popleft()
            inner = self._bundle(bundle, where, log, ours=False)
            if inner is not None:
                yield from inner.records()
                waiting.extend(inner.nested)


class TwinReader(Reader):
    """Reads files once for two terminologies, so that each patient is had as both see it.

    Args:
        first: `terminology` and `wanted` of `Reader`.
        second: the same of the other.
    """

    def __init__(
        self,
        first: tuple[Terms, Collection[str] | None],
        second: tuple[Terms, Collection[str] | None],
    ) -> None:
        super().__init__(first[0], wanted=first[1])
        self._second = Resources(*second)
        self._second_log = ReadLog()

    def read_pairs(
        self, paths: Sequence[str | Path], log: ReadLog, second_log: ReadLog
    ) -> Iterator[tuple[Record, Record]]:
        """Yield the two Records of each patient in files, folders and "-", as `read_paths` does.

        What cannot be read at all is added to `log`, what only the second terminology cannot use
        to `second_log`.
        """
        self._second_log = second_log
        records = self.read_paths(paths, log)
        return zip(records, records, strict=True)  # from `Twins.records`, one after the other

    def _scope(self, log: ReadLog, where: str = "", *, bundle: bool) -> Twins:
        logs = ((self._resources, log), (self._second, self._second_log))
        scopes = (
            Scope(resources, own, where=where, bundle=bundle, validate=None)
            for resources, own in logs
        )
        return Twins(*scopes)


# ---------------------------------------------------------------- strictness


def _invalid(resource: Json, name: str) -> str:
    """Return why a resource is not valid FHIR (R4B, else R5), with paths; "" if it is.

    The texts of the validator are not passed on: they quote the data.
    """
    doubled = _doubled(resource, name)
    if doubled:
        return f"not valid: {doubled}: a key is written twice"
    from fhir.resources import get_fhir_model_class as r5
    from fhir.resources.R4B import get_fhir_model_class as r4b
    from pydantic import ValidationError

    worst = ""
    fewest = 1 << 30
    for version, model_of in (("R4B", r4b), ("R5", r5)):
        try:
            model_of(name).model_validate(resource)
            return ""
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            texts = [f"{_path(name, f['loc'])}: {_FAULTS.get(f['type'], _FAULT)}" for f in faults]
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError):
            # What the validator itself stumbles over, such as a resourceType that is a number.
            texts = [f"{name}: {_FAULT}"]
        if len(texts) < fewest:
            fewest = len(texts)
            worst = f"not valid {version}: " + "; ".join(dict.fromkeys(texts))
    return worst


_FAULT: Final = "wrong type, format or combination"
_FAULTS: Final = {"missing": "required", "extra_forbidden": "not an element of this resource"}


def _path(name: str, loc: tuple[int | str, ...]) -> str:
    """The location of a validation error as FHIRPath."""
    path = name
    for part in loc:
        if part != "root":
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def _doubled(resource: Json, name: str) -> str:
    """The path of an object with a key written twice, or ""."""
    waiting: list[tuple[str, object]] = [(name, resource)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Doubled):
            return path
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", each) for key, each in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{i}]", each) for i, each in enumerate(value)]
    return ""


# ---------------------------------------------------------------- files


def _files(path: str, log: ReadLog) -> Iterator[str]:
    """Yield a file, or the files to read in a folder, in sorted order."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        log.reject(path, f"cannot be read: {getattr(error, 'strerror', None) or 'no such name'}")
        return
    if not stat.S_ISDIR(mode):
        yield path
        return
    empty = True
    seen: set[str] = set()

    def refused(error: OSError) -> None:
        log.reject(str(error.filename), f"cannot be read: {error.strerror}")

    for folder, inner, names in os.walk(path, followlinks=True, onerror=refused):
        real = os.path.realpath(folder)
        if real in seen:  # through a link, perhaps back to a folder above
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        for name in sorted(names):
            if name.endswith(_SUFFIXES):
                empty = False
                file = os.path.join(folder, name)
                if os.path.exists(file) and not os.path.isfile(file):
                    log.reject(file, "cannot be read: not a regular file")
                else:
                    yield file
    if empty:
        log.reject(path, "no *.json, *.ndjson or .gz of these in this folder")


def _size(file: BinaryIO) -> int:
    """The size of a regular file in bytes, 0 for a pipe."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
