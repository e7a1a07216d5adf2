"""The formulary: what products contain, how medicines are named in text, and by which route.

Reads ``medicines.yaml`` and ``medicines/*.csv`` of a ruleset folder. Every name, route and word is
in those files; here are only their shapes, and how a text is compared with them. Nothing here
looks at a patient.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import ConfigDict, Field

from cds.errors import RuleError
from cds.yamlmodel import ID

__all__ = [
    "SYSTEMIC",
    "Formulary",
    "MedicineFile",
    "Name",
    "Named",
    "Route",
    "load_formulary",
    "words_of",
]

SYSTEMIC: Final = "systemic"
"""The route of a set of medicines that names none, and of a use whose route is not known."""

_Text = Annotated[str, Field(min_length=1)]
_Id = Annotated[str, Field(pattern=ID)]
_KNOWN_KEYS_ONLY: Final = ConfigDict(extra="forbid")
_FEW: Final = 1_000  # characters of a text that are read; a longer one is no name of a medicine
_WORD: Final = re.compile(r"[^\W_]+|[/+;:,&()\[\]|]")
_DROPPED: Final = dict.fromkeys(map(ord, "’®™"))  # before NFKC, which would write ™ as letters
_APART: Final = frozenset("/+;:&()[]|")  # no name goes across these


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way into the body: its codes with their names, and the phrases that say it.

    `within` is the route under which it is also sent.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    id: _Id
    within: _Id | None = None
    codes: dict[str, _Text]
    words: tuple[_Text, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Phrases around the names of medicines; the file says what each list means."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    between: tuple[_Text, ...]
    nothing: tuple[_Text, ...]
    aside: tuple[_Text, ...]
    before: tuple[_Text, ...]
    after: tuple[_Text, ...]
    directly_after: tuple[_Text, ...]
    again: tuple[_Text, ...]
    filler: tuple[_Text, ...]
    not_systemic: tuple[_Text, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MedicineFile:
    """What stands in ``medicines.yaml``."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    version: _Text
    source: _Text
    retrieved: _Text
    license: _Text
    refill_gap_days: Annotated[int, Field(ge=0)]
    order_gap_days: Annotated[int, Field(ge=0)]
    route_system: _Text
    routes: tuple[Route, ...]
    words: Words


class Named(NamedTuple):
    """What a text says: ingredients by their own names and by brands, route, and whether in use.

    `in_use` False: it says that nothing of what it names is in use. `local`: it is of something
    that does not reach the body as a whole, or of no medicine.
    """

    ingredients: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()
    route: str = ""
    in_use: bool = True
    local: bool = False


class _Phrases:
    """Phrases of words, found word by word."""

    def __init__(self, phrases: Iterable[tuple[str, ...]]) -> None:
        self._known = frozenset(phrases)
        lengths: dict[str, set[int]] = {}
        for words in self._known:
            lengths.setdefault(words[0], set()).add(len(words))
        self._lengths = {word: tuple(sorted(known)[::-1]) for word, known in lengths.items()}

    def at(self, words: Sequence[str], start: int) -> int:
        """The number of words of the longest phrase that begins there; 0 for none."""
        for length in self._lengths.get(words[start], ()):
            found = tuple(words[start : start + length])
            if len(found) == length and found in self._known:
                return length
        return 0

    def among(self, words: Sequence[str]) -> bool:
        """Whether one of the phrases stands anywhere among these words."""
        return any(self.at(words, start) for start in range(len(words)))


@dataclass(slots=True)
class _Tokens:
    """The words of a text; for each the bracket depth, and what it stands together with.

    Names do not go across a `chunk`; a `part` ends also at commas and joining words, a
    `statement` at commas and semicolons only.
    """

    words: list[str] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    chunk: list[int] = field(default_factory=list)
    part: list[int] = field(default_factory=list)
    statement: list[int] = field(default_factory=list)

    def without(self, gone: frozenset[int]) -> _Tokens:
        """The same without the words at these places."""
        kept = _Tokens()
        for i, word in enumerate(self.words):
            if i not in gone:
                kept.words.append(word)
                kept.depth.append(self.depth[i])
                kept.chunk.append(self.chunk[i])
                kept.part.append(self.part[i])
                kept.statement.append(self.statement[i])
        return kept


class Name(NamedTuple):
    """What a name stands for; `alone` is "part", "text" or ""."""

    ingredients: frozenset[str]
    brand: bool
    alone: str


class _Span(NamedTuple):
    """A name found in a text: its first word and the one behind its last."""

    start: int
    end: int
    name: Name


class Formulary:
    """Products, names and routes of medicines; without `file` it knows none.

    Args:
        file: what ``medicines.yaml`` says.
        same_as: for each known ingredient the one that it counts as, most often itself.
        products: for each RxNorm product its route ("" for unknown) and its ingredients.
        names: for the words of each name, as `words_of` gives them, what they stand for.
    """

    def __init__(
        self,
        file: MedicineFile | None = None,
        same_as: Mapping[str, str] | None = None,
        products: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
        names: Mapping[tuple[str, ...], Name] | None = None,
    ) -> None:
        self.file = file
        self.same_as, self.products = same_as or {}, products or {}
        self.refill_gap = file.refill_gap_days * 86_400 if file else 0
        self.order_gap = file.order_gap_days * 86_400 if file else 0
        self.routes = tuple(r.id for r in file.routes) if file else (SYSTEMIC,)
        self._within = {r.id: r.within for r in file.routes} if file else {}
        self._route_system = file.route_system if file else ""
        self._route_of_code = {c: r.id for r in file.routes for c in r.codes} if file else {}
        self._route_words = (
            [(r.id, _Phrases(map(words_of, r.words))) for r in file.routes] if file else []
        )
        self.names, self._spelled = names or {}, _Phrases(names or ())
        words = file.words if file else None
        self._between = frozenset(words.between if words else ())
        self._filler = self._between.union(words.filler if words else ())
        self._nothing, self._aside, self._before, self._after, self._directly, self._again = (
            _Phrases(map(words_of, getattr(words, each) if words else ()))
            for each in ("nothing", "aside", "before", "after", "directly_after", "again")
        )
        self._not_systemic = _Phrases(map(words_of, words.not_systemic if words else ()))
        routes: dict[str, set[str]] = {}
        for route, ingredients in self.products.values():
            if route:
                for ingredient in ingredients:
                    routes.setdefault(ingredient, set()).add(route)
        self._routes_of = {name: frozenset(known) for name, known in routes.items()}

    @property
    def spellings(self) -> Iterable[tuple[str, ...]]:
        """The words of every name of a medicine, as `words_of` gives them."""
        return self.names

    def routes_of(self, ingredient: str) -> frozenset[str]:
        """The routes of the known products with this ingredient."""
        return self._routes_of.get(ingredient, frozenset())

    def route(self, system: str, code: str, display: str, product: str, text: str) -> str:
        """The route of a use: as sent, else of its product, else of its text; "" for unknown.

        A narrower route that product or text name is believed of the wider one.
        """
        sent = self._route_of_code.get(code, "") if system == self._route_system else ""
        said = (sent or self._said(words_of(display)), product, text)
        found = ""
        for route in said:
            if route and (not found or self._within.get(route) == found):
                found = route
        return found

    def sent_as(self, route: str) -> tuple[str, str, str]:
        """System, code and name of a route, or where it has no code, only words that say it.

        >>> Formulary().sent_as("oral")
        ('', '', 'oral')
        """
        for each in self.file.routes if self.file else ():
            if each.id == route:
                for code, name in each.codes.items():
                    return self._route_system, code, name
        return "", "", route

    def _said(self, words: Sequence[str]) -> str:
        """The route of the longest phrase among these words, the first route of several."""
        best, longest = "", 0
        for route, phrases in self._route_words:
            for start in range(len(words)):
                length = phrases.at(words, start)
                if length > longest:
                    best, longest = route, length
        return best

    def named(self, text: str) -> Named:
        """What a text names.

        >>> Formulary().named("water tablet")
        Named(ingredients=frozenset(), brands=frozenset(), route='', in_use=True, local=False)
        """
        tokens = self._tokens(text)
        if not tokens.words:
            return Named()
        local = self._not_systemic.among(tokens.words)
        route = self._said(tokens.words)
        tokens = self._without_asides(tokens)
        if self._nothing.among(tokens.words):
            return Named(in_use=False, local=local)
        spans = list(self._spans(tokens))
        held = [s for s in spans if self._counts(s, spans, tokens)]
        voided = self._voided(tokens, spans)
        kept = [s.name for s in held if s not in voided]
        return Named(
            frozenset(i for name in kept if not name.brand for i in name.ingredients),
            frozenset(i for name in kept if name.brand for i in name.ingredients),
            route,
            bool(kept) or not voided,
            local,
        )

    def _tokens(self, text: str) -> _Tokens:
        tokens = _Tokens()
        depth = chunk = part = statement = 0
        for word in _split(text):
            if word in _APART or word == ",":
                part += 1
                chunk += word != ","
                statement += word in ",;"
                depth = max(0, depth + (word in "([") - (word in ")]"))
                continue
            joins = word in self._between
            part += joins
            tokens.words.append(word)
            tokens.depth.append(depth)
            tokens.chunk.append(chunk)
            tokens.part.append(part)
            tokens.statement.append(statement)
            part += joins
        return tokens

    def _without_asides(self, tokens: _Tokens) -> _Tokens:
        gone: set[int] = set()
        for start in range(len(tokens.words)):
            if start not in gone and self._aside.at(tokens.words, start):
                gone.update(_to_the_end(tokens, start))
        return tokens.without(frozenset(gone)) if gone else tokens

    def _spans(self, tokens: _Tokens) -> Iterator[_Span]:
        words, start = tokens.words, 0
        while start < len(words):
            chunk = tokens.chunk[start]
            stop = start
            while stop < len(words) and tokens.chunk[stop] == chunk:
                stop += 1
            length = self._spelled.at(words[start:stop], 0)
            if length:
                end = start + length
                yield _Span(start, end, self.names[tuple(words[start:end])])
            start += length or 1

    def _counts(self, span: _Span, spans: Sequence[_Span], tokens: _Tokens) -> bool:
        """Whether a name that must stand alone does, and nothing directly behind denies it."""
        behind = span.end < len(tokens.words) and tokens.chunk[span.end] == tokens.chunk[span.start]
        if behind and self._directly.at(tokens.words, span.end):
            return False
        if not span.name.alone:
            return True
        others = set(range(len(tokens.words))) - set(range(span.start, span.end))
        if span.name.alone == "part":
            others = {i for i in others if tokens.part[i] == tokens.part[span.start]}
        else:
            others -= {i for s in spans for i in range(s.start, s.end)}
        return all(tokens.words[i] in self._filler or tokens.words[i].isdigit() for i in others)

    def _voided(self, tokens: _Tokens, spans: Sequence[_Span]) -> set[_Span]:
        """The names of what is not in use, by the words before and after them."""
        words, statement = tokens.words, tokens.statement
        inside = {i for s in spans for i in range(s.start, s.end)}
        voided: set[_Span] = set()
        start = 0
        while start < len(words):
            before, after = self._before.at(words, start), self._after.at(words, start)
            if start in inside or not (before or after):
                start += 1
                continue
            earlier = [
                s for s in spans if s.end <= start and statement[s.start] == statement[start]
            ]
            if after and not earlier and self._only_this(tokens, start, after):
                # "furosemide, stopped": the statement before is meant.
                last = max((s for s in spans if s.end <= start), default=None)
                earlier = [s for s in spans if last and statement[s.start] == statement[last.start]]
            if after and earlier:
                voided.update(earlier)
            elif before:
                place = start + before
                for i in _to_the_end(tokens, start):
                    if i >= place and i not in inside and self._again.at(words, i):
                        break
                    voided.update(s for s in spans if s.start == i)
            start += max(before, after)
        return voided

    def _only_this(self, tokens: _Tokens, start: int, length: int) -> bool:
        own = [i for i, s in enumerate(tokens.statement) if s == tokens.statement[start]]
        rest = set(own) - set(range(start, start + length))
        return all(tokens.words[i] in self._filler or tokens.words[i].isdigit() for i in rest)


def _to_the_end(tokens: _Tokens, start: int) -> Iterator[int]:
    """The words from there to the end of the brackets that they stand in, or of the text."""
    for i in range(start, len(tokens.words)):
        if tokens.depth[i] < tokens.depth[start]:
            return
        yield i


def _split(text: str) -> list[str]:
    """The words and separators of a text, each in lower case, without apostrophes."""
    plain = text[:_FEW]
    if not plain.isascii():
        plain = unicodedata.normalize("NFKC", plain.translate(_DROPPED))
    return _WORD.findall(plain.replace("'", "").casefold())


def words_of(text: str) -> tuple[str, ...]:
    """The words of a name or phrase, as they are compared.

    >>> words_of("St. John's Wort"), words_of("K-Dur")
    (('st', 'johns', 'wort'), ('k', 'dur'))
    """
    return tuple(word for word in _split(text) if word not in _APART and word != ",")


# ---------------------------------------------------------------- loading


def load_formulary(folder: Path, file: MedicineFile, faults: list[RuleError]) -> Formulary:
    """Read ``medicines/*.csv`` beside a ``medicines.yaml``; what is wrong is added to `faults`."""
    routes = {route.id for route in file.routes}
    for route in file.routes:
        if route.within is not None and route.within not in routes:
            path = str(folder / "medicines.yaml")
            faults.append(RuleError(f"there is no route '{route.within}'", path=path))
    ingredients = _Table(folder / "medicines" / "ingredients.csv", "id,name,same_as", faults)
    same_as = {id_: other or id_ for id_, _, other in ingredients.rows()}
    seen: dict[str, tuple[str, ...]] = {}

    def known(table: _Table, text: str) -> tuple[str, ...]:
        if text not in seen:
            seen[text] = tuple(text.split())
            for id_ in seen[text]:
                if same_as.get(id_) != id_:
                    table.fault(f"'{id_}' is not in ingredients.csv, or is the same as another")
        return seen[text]

    products: dict[str, tuple[str, tuple[str, ...]]] = {}
    table = _Table(folder / "medicines" / "products.csv", "rxcui,route,ingredients", faults)
    for code, way, contents in table.rows():
        if way and way not in routes:
            table.fault(f"there is no route '{way}'")
        if code in products:
            table.fault(f"product {code} stands twice")
        products[code] = (way, known(table, contents))
    names: dict[tuple[str, ...], Name] = {}
    table = _Table(folder / "medicines" / "names.csv", "name,kind,alone,ingredients", faults)
    for name, kind, alone, contents in table.rows():
        spelled = words_of(name)
        if not spelled or spelled in names:
            table.fault(f"the name '{name}' stands twice" if spelled else "a name without a word")
            continue
        if kind not in ("name", "brand") or alone not in ("", "part", "text"):
            table.fault("'kind' is name or brand, 'alone' is part, text or empty")
        names[spelled] = Name(frozenset(known(table, contents)), kind == "brand", alone)
    return Formulary(file, same_as, products, names)


class _Table:
    """A CSV file with these columns; what is wrong is added to `faults` with its line."""

    def __init__(self, path: Path, columns: str, faults: list[RuleError]) -> None:
        self.path, self.columns, self.faults = path, columns, faults
        self._line = 0

    def fault(self, text: str) -> None:
        """Say what is wrong with the line that was read last."""
        self.faults.append(RuleError(text, path=str(self.path), line=self._line))

    def rows(self) -> Iterator[list[str]]:
        """The lines below the first one."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(RuleError(f"cannot be read: {error}", path=str(self.path)))
            return
        width = self.columns.count(",") + 1
        for self._line, cells in enumerate(csv.reader(lines), 1):
            if self._line == 1:
                if ",".join(cells) != self.columns:
                    self.fault(f"the columns are {self.columns}")
                    return
            elif len(cells) != width:
                self.fault(f"{len(cells)} cells instead of {width}")
            else:
                yield cells
