"""Where two texts differ, word by word."""

from __future__ import annotations

import difflib
from typing import Literal

__all__ = ["Piece", "word_diff"]

Piece = tuple[Literal["same", "old", "new"], str]

_AROUND = 4  # words kept on each side of a difference
_NEAR = 2  # so few equal words between two differences belong to them


def word_diff(old: str, new: str) -> list[Piece]:
    """Return the pieces of both texts in order; long stretches that are equal are cut to "...".

    >>> word_diff("Repeat the test soon", "Repeat the test today")
    [('same', 'Repeat the test'), ('old', 'soon'), ('new', 'today')]
    """
    a, b = old.split(), new.split()
    pieces: list[Piece] = []
    gone: list[str] = []
    come: list[str] = []

    def flush() -> None:
        if gone:
            pieces.append(("old", " ".join(gone)))
        if come:
            pieces.append(("new", " ".join(come)))
        gone.clear()
        come.clear()

    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    for number, (kind, i, j, k, m) in enumerate(blocks):
        inside = 0 < number < len(blocks) - 1
        if kind == "equal" and not (inside and j - i <= _NEAR):
            flush()
            pieces.append(("same", _cut(a[i:j], number > 0, number < len(blocks) - 1)))
        else:
            gone += a[i:j]
            come += b[k:m]
    flush()
    return pieces


def _cut(words: list[str], before: bool, after: bool) -> str:
    """Keep the words next to a difference: at the beginning, at the end, or both."""
    head = _AROUND if before else 0
    tail = _AROUND if after else 0
    if len(words) <= head + tail + 1 or not (before or after):
        return " ".join(words)
    kept = [*words[:head], "...", *(words[-tail:] if tail else [])]
    return " ".join(kept)
