"""What somebody most likely meant: plain words for syntax errors, and a fix for a value in the wrong form.

Invariants: advice never changes what is accepted, only what is said of what is refused; it never repeats
control characters; it costs a line of text, whatever the file's size.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import yaml

_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_AMOUNT = re.compile(r"([0-9]+(?:[.,][0-9]+)?)\s*([A-Za-z%]+)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_KEY_UNITS = {"Seconds": 1, "Hours": 3_600, "Days": 86_400}
_QUOTES = "\"'\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb`"
_CLOSING = {"{": "}", "[": "]"}

Explained = tuple[yaml.Mark | None, str, str]


def syntax(text: str, error: yaml.YAMLError) -> Explained:
    """Where the mistake of a text that is not YAML lies, what it is, and what to do."""
    at, opened = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    said = str(getattr(error, "problem", None) or error)
    context = str(getattr(error, "context", None) or "")
    odd = _odd_indent(text, at) if at else ""
    if odd:
        return at, odd, "indent with ordinary spaces"
    if "\\t" in said:
        return at, "a tab begins or indents this line", "indent with spaces, not tabs"
    if "end of stream" in said and "quoted" in context:
        return opened, "a quotation that begins here never ends", "close it with the same quotation mark"
    if "flow" in context and opened is not None:
        bracket = _line(text, opened)[opened.column : opened.column + 1]
        if bracket not in _CLOSING:  # the mark is where the parser gave up, as at the end of the file
            return (
                opened,
                "a '[' or '{' before this is not closed, or something is missing",
                "close each '[' with ']' and each '{' with '}'",
            )
        return (
            opened,
            f"the '{bracket}' here is not closed, or a comma is missing",
            f"close it with '{_CLOSING[bracket]}'",
        )
    if "<block end>" in said and at is not None and opened is not None and at.column != opened.column:
        begins, belongs = at.column + 1, opened.column + 1
        return (
            at,
            f"this line begins in column {begins}, those it belongs to in column {belongs}",
            "align them",
        )
    if "mapping values are not allowed" in said:
        return at, "a ':' where no key can end", "put text that holds ': ' in quotes; indent keys alike"
    if "expected ':'" in said and opened is not None:
        return opened, "a key without a value", "write 'key: value', with a space after the colon"
    return at or opened, said[:160], context[:160]


def excerpt(text: str, mark: yaml.Mark) -> str:
    """The line of a mark, short, as it may stand in a message."""
    return repr(_line(text, mark).strip())[:70]


def _line(text: str, mark: yaml.Mark) -> str:
    lines = _BREAKS.split(text)
    return lines[mark.line] if mark.line < len(lines) else ""


def _odd_indent(text: str, mark: yaml.Mark) -> str:
    """What indents this line or the one before it and only looks like a space."""
    lines = _BREAKS.split(text)
    for number in (mark.line, mark.line - 1):
        line = lines[number] if 0 <= number < len(lines) else ""
        start = line[: len(line) - len(line.lstrip())]
        odd = next((c for c in start if c not in " \t"), "")
        if odd:
            return f"line {number + 1} is indented with U+{ord(odd):04X}, which is no ordinary space"
    return ""


def plainly(word: str) -> str:
    """A word without what only looks like something else: other quotes, full-width letters, nothing visible."""
    folded = unicodedata.normalize("NFKC", word[:80])
    seen = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cc"))
    return seen.strip().strip(_QUOTES)


def amount(text: str, key: str) -> str:
    """How a number is written that somebody gave as text; "" where that cannot be told."""
    bare = text.strip().replace("_", "")
    if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", bare):
        return f"write {bare}" if bare != text else "leave the quotes out"
    if re.fullmatch(r"[0-9]+,[0-9]+", bare):
        return f"a decimal point, no comma: {bare.replace(',', '.')}"
    found = _AMOUNT.fullmatch(bare)
    if not found:
        return ""
    number, unit = float(found[1].replace(",", ".")), found[2]
    if unit == "%":
        return f"write {number / 100:.10g}: a share is a number from 0 to 1"
    of_key = next((seconds for word, seconds in _KEY_UNITS.items() if word in key), None)
    of_text = _SECONDS.get(unit[0].lower())
    if of_key and of_text:
        return f"write {number * of_text / of_key:.10g}: the unit is that of the key's name"
    return f"write {number:.10g}, without a unit"


def split_number(instance: dict[str, Any], key: str) -> str:
    """Within ``{value: 0,10}`` the comma ends the value and ``10`` becomes a key: what was meant; "" elsewhere."""
    if not re.fullmatch(r"[0-9]+", key) or instance[key] is not None:
        return ""
    before = list(instance)[: list(instance).index(key)]
    whole = instance[before[-1]] if before else None
    if isinstance(whole, bool) or not isinstance(whole, int):
        return ""
    return f"a decimal point, no comma: {whole}.{key}"


def duration(value: Any) -> str:
    """How a time is written that somebody gave in another form; "" where that cannot be told."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"a unit is missing: {value:.10g}s, {value:.10g}m, {value:.10g}h or {value:.10g}d"
    found = _AMOUNT.fullmatch(str(value).strip())
    unit = _SECONDS.get(found[2][0].lower()) if found else None
    if found is None or unit is None:
        return ""
    seconds = float(found[1].replace(",", ".")) * unit
    letter = found[2][0].lower()
    if seconds % unit == 0 and letter != "w":
        return f"did you mean '{seconds / unit:.0f}{letter}'?"
    smaller = next((name for name in ("d", "h", "m", "s") if seconds % _SECONDS[name] == 0), "")
    return f"did you mean '{seconds / _SECONDS[smaller]:.0f}{smaller}'?" if smaller else ""
