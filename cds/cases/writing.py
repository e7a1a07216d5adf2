"""Writing a case as an author would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cds.forms import Form, scalar

__all__ = ["written"]


def written(
    name: str,
    as_of: str,
    forms: Sequence[Form],
    expect: Mapping[str, Sequence[str] | Mapping[str, str] | str],
) -> str:
    """Return a case in YAML, ready to paste under `cases`.

    Args:
        name: a sentence that says what must hold.
        as_of: ISO 8601, with offset.
        forms: the patient.
        expect: members of `expect` by their key ("fires", "not", "tier").
    """
    lines = [f"  - name: {scalar(name)}", f"    as_of: {as_of}", "    data:"]
    lines += [f"      {form.line()}" for form in forms]
    if not forms:
        lines[-1] += " []"
    lines.append("    expect:")
    for key, value in expect.items():
        if isinstance(value, str):
            text = scalar(value)
        elif isinstance(value, Mapping):
            pairs = (f"{scalar(k, flow=True)}: {scalar(v, flow=True)}" for k, v in value.items())
            text = "{" + ", ".join(pairs) + "}"
        else:
            text = "[" + ", ".join(scalar(word, flow=True) for word in value) + "]"
        lines.append(f"      {key}: {text}")
    return "\n".join(lines) + "\n"
