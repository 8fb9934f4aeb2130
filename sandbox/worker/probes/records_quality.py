"""A census of the records that a model learnt from: what should not be among them. Exact counts.

Invariants:
- Every record is looked at; a count is of records, and each counted record is listed by file and line, with what was
  found in it. That says where and of which kind, never what: no piece of a record and no private item stands in it.
- A record cannot talk its way out: no comment in it switches a detector off.
- Counts have no opinion; how many are too many is the policy's business.

Text records give ``data.records``, ``data.near_duplicates`` (records like an earlier one), ``data.largest_family``
(a record and all that are like it; listed where more than one), ``data.largest_source`` (records of the most frequent
``source``), ``data.unsourced`` and ``data.unlicensed`` (records that do not say where they are from, or under which
licence), ``data.pii``, ``data.secrets``, ``data.language`` (not English), ``data.gibberish``, ``data.overlap`` (repeats
an evaluation item), ``data.generated``, ``data.labelled`` and, where it can be told, ``data.label_errors``. Records with
a ``layout`` give those of them that have a meaning for levels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from guardrails.canonical import digest, encode
from sandbox.worker.data import Line, words
from sandbox.worker.probes import Item, gibberish, personal_data, record_labels
from sandbox.worker.probes.records_overlap import Overlap, runs

SHINGLE = 3  # words in a shingle, for likeness
LIKE = 0.8  # share of common shingles from which two records are near-duplicates
PERMUTATIONS = 64
LANGUAGE = "en"
LANGUAGE_LETTERS = 40  # below that many letters no language can be told
LANGUAGE_SURE = 0.9
SOURCE_FIELDS = ("source", "url")
LICENCE_FIELDS = ("license", "licence")
MOST_PIECES = 6
"""Pieces of a record that its reason names."""
MOST_REASONS = 2000
"""Records of one fact whose reason is kept; the others are listed without."""
SECRET_PLUGINS = (
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
KEYWORD_PLUGINS = ("KeywordDetector",)
"""Looks for a value in quotes beside a word like ``password``, in time that grows with the square of a row's length."""
WINDOW = 1000
"""Characters of a row that it looks at together: a value of up to half as many is found wherever it stands."""
QUOTES = frozenset("'\"`")
BEGINNINGS = ("GitHub Token", "GitLab Token", "JSON Web Token")
"""Kinds of which the detector's value may be no more than the first letters."""


@dataclass
class Census:
    """The counts as facts, for each the records counted, and for each of those why it was."""

    facts: dict[str, str] = field(default_factory=dict)
    flagged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, name: str, lines: Sequence[Line], why: Callable[[Line], str] | None = None) -> None:
        """Count the records that have something; ``why`` says of one of them what that is."""
        self.facts[f"data.{name}"] = str(len(lines))
        if lines:
            self._list(f"data.{name}", lines, why)

    def add_largest(self, name: str, groups: Sequence[Sequence[Line]], *, listed: bool = True) -> None:
        """Count the records of the largest group; they are listed where there is more than one."""
        largest = max(groups, key=len, default=())
        self.facts[f"data.largest_{name}"] = str(len(largest))
        if listed and len(largest) > 1:
            self._list(
                f"data.largest_{name}",
                largest,
                lambda line: f"one of {len(largest)}, the first is {largest[0].place}",
            )

    def update(self, more: Census) -> None:
        """Take over what another look found."""
        self.facts |= more.facts
        self.flagged |= more.flagged
        self.reasons |= more.reasons

    def _list(self, fact: str, lines: Sequence[Line], why: Callable[[Line], str] | None) -> None:
        self.flagged[fact] = tuple(line.place for line in lines)
        if why is not None:
            self.reasons[fact] = {line.place: why(line) for line in lines[:MOST_REASONS]}


def census(lines: Sequence[Line], suites: Sequence[Sequence[Item]]) -> Census:
    """Look through all records; ``suites`` are the items that they must not repeat."""
    found = Census()
    found.facts["data.records"] = str(len(lines))
    found.add("generated", [line for line in lines if line.generated])
    items = [item for suite in suites for item in suite]
    if lines and all("layout" in line.value for line in lines):
        first = _first_layouts(lines)
        found.add(
            "near_duplicates",
            repeated_layouts(lines),
            lambda line: f"the level of {first[_layout(line.value)]}",
        )
        found.add(
            "overlap",
            shared_layouts(lines, items),
            lambda line: "the level, or the id, of an evaluation item",
        )
        return found
    alike = families(lines)
    like = {line.place: family[0].place for family in alike for line in family[1:]}
    found.add("near_duplicates", _repeats(lines, alike), lambda line: f"like {like[line.place]}")
    found.add_largest("family", alike)
    found.add_largest("source", list(_by_source(lines).values()), listed=False)
    found.add("unsourced", [line for line in lines if not _states(line, SOURCE_FIELDS)])
    found.add("unlicensed", [line for line in lines if not _states(line, LICENCE_FIELDS)])
    found.add(
        "pii", [line for line in lines if next(personal_data.find(line.text), None)], _which_personal_data
    )
    secrets = secrets_of(lines)
    holding = [line for line in lines if line.place in secrets]
    found.add("secrets", holding, lambda line: _placed(line.text, secrets[line.place]))
    found.add("language", not_english(lines), _which_language)
    found.add("gibberish", [line for line in lines if gibberish.is_gibberish(line.text)], _why_gibberish)
    private = Overlap(items)
    found.add("overlap", [line for line in lines if private.where(line)], private.where)
    _add_labels(found, lines)
    return found


def _which_personal_data(line: Line) -> str:
    return _placed(line.text, personal_data.find(line.text))


def _which_language(line: Line) -> str:
    language, sureness = _identifier().classify(line.text)
    return f"{language}, {100 * sureness:.0f} in 100 sure"


def _why_gibberish(line: Line) -> str:
    return gibberish.reason(line.text)


def _placed(text: str, found: Iterable[tuple[str, str]]) -> str:
    """Kind and place of each piece; what only looks so in the text has no place in it."""
    said = []
    for kind, value in found:
        start = text.find(value)
        said.append(
            f"{kind} at {start + 1}-{start + len(value)}" if value and start >= 0 else f"{kind}, as it looks"
        )
    return ", ".join(dict.fromkeys(said[:MOST_PIECES])) + (" …" if len(said) > MOST_PIECES else "")


def _add_labels(found: Census, lines: Sequence[Line]) -> None:
    """How many records carry a label, and which labels are likely wrong where that can be told."""
    labelled = record_labels.labelled(lines)
    found.facts["data.labelled"] = str(len(labelled))
    wrong = record_labels.label_errors(labelled)
    if wrong is not None:
        found.add("label_errors", wrong)


def near_duplicates(lines: Sequence[Line]) -> list[Line]:
    """Records that are like an earlier one."""
    return _repeats(lines, families(lines))


def families(lines: Sequence[Line]) -> list[list[Line]]:
    """Each record with the later ones that are like it; candidates from MinHash, then compared exactly.

    Who is like several is of the first one's family. Records that are like each other only by way of a third
    may be of two families.
    """
    from datasketch import MinHash, MinHashLSH

    # Tuned to miss few: a false candidate costs one exact comparison, a miss is a miss.
    index = MinHashLSH(threshold=LIKE, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    # Copied for each record: drawing the permutations anew takes longer than using them.
    blank = MinHash(num_perm=PERMUTATIONS)
    kept: list[frozenset[str]] = []
    found: list[list[Line]] = []
    for line in lines:
        shingles = frozenset(runs(words(line.text), SHINGLE)) or frozenset([line.text])
        sketch = blank.copy()
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
        at = next((at for at in sorted(index.query(sketch)) if likeness(shingles, kept[at]) >= LIKE), None)
        if at is not None:
            found[at].append(line)
            continue
        index.insert(len(kept), sketch, check_duplication=False)
        kept.append(shingles)
        found.append([line])
    return found


def _repeats(lines: Sequence[Line], alike: Sequence[Sequence[Line]]) -> list[Line]:
    """All but the first of each family, in the order of the files."""
    first = {family[0].place for family in alike}
    return [line for line in lines if line.place not in first]


def _by_source(lines: Sequence[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        source = line.value.get("source")
        if isinstance(source, str) and source.strip():
            found.setdefault(source, []).append(line)
    return found


def _states(line: Line, names: Sequence[str]) -> bool:
    """True where one of the fields holds a word."""
    values = (line.value.get(name) for name in names)
    return any(isinstance(value, str) and value.strip() != "" for value in values)


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard index: the share that is common to both."""
    return len(one & other) / len(one | other)


def with_secrets(lines: Sequence[Line]) -> list[Line]:
    """Records that hold a key, a token or a password."""
    found = secrets_of(lines)
    return [line for line in lines if line.place in found]


def secrets_of(lines: Sequence[Line]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Kind and value of every key, token and password of each record that holds one, by the record's place."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for plugins, parts in ((SECRET_PLUGINS, _rows), (KEYWORD_PLUGINS, _windows)):
        with _secret_detectors(plugins):
            for line in lines:
                for piece in _secrets_in(line, parts):
                    found.setdefault(line.place, {})[piece] = None
    return {line.place: tuple(found[line.place]) for line in lines if line.place in found}


@contextmanager
def _secret_detectors(plugins: Sequence[str]) -> Iterator[None]:
    from detect_secrets.settings import transient_settings

    with transient_settings({"plugins_used": [{"name": name} for name in plugins]}) as settings:
        # By default a comment in the scanned line switches the scan off.
        settings.disable_filters("detect_secrets.filters.allowlist.is_line_allowlisted")
        yield


def _secrets_in(line: Line, parts: Callable[[str], Iterable[str]]) -> Iterator[tuple[str, str]]:
    from detect_secrets.core.scan import scan_line

    for text in personal_data.readings(line.text):
        for row in parts(text):
            for secret in scan_line(row):
                yield from (
                    (secret.type, piece) for piece in _whole(secret.type, secret.secret_value or "", row)
                )


def _rows(text: str) -> Iterable[str]:
    return text.splitlines()


def _windows(text: str) -> Iterator[str]:
    """Rows in which a value could stand in quotes; long ones in pieces that overlap by half."""
    for row in text.splitlines():
        for start in range(0, max(1, len(row) - WINDOW // 2), WINDOW // 2):
            piece = row[start : start + WINDOW]
            if not QUOTES.isdisjoint(piece):
                yield piece


def _whole(kind: str, value: str, row: str) -> Iterator[str]:
    """The secrets themselves, where a detector gives only how they begin."""
    if not value:
        yield row.strip()
    elif kind in BEGINNINGS:
        yield from re.findall(re.escape(value) + r"[\w.=+/-]{16,}", row) or (row.strip(),)
    else:
        yield value


def not_english(lines: Sequence[Line]) -> list[Line]:
    """Records that are surely in another language; too short ones are let pass."""
    identifier = _identifier()
    found = []
    for line in lines:
        if sum(letter.isalpha() for letter in line.text) >= LANGUAGE_LETTERS:
            language, sureness = identifier.classify(line.text)
            if language != LANGUAGE and sureness >= LANGUAGE_SURE:
                found.append(line)
    return found


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _first_layouts(lines: Sequence[Line]) -> dict[str, str]:
    """Where each level stands first."""
    return {_layout(line.value): line.place for line in reversed(lines)}


def repeated_layouts(lines: Sequence[Line]) -> list[Line]:
    """Records whose level equals an earlier record's."""
    seen: set[str] = set()
    found = []
    for line in lines:
        name = _layout(line.value)
        if name in seen:
            found.append(line)
        seen.add(name)
    return found


def shared_layouts(lines: Sequence[Line], items: Sequence[Item]) -> list[Line]:
    """Records whose level, by content or by id, is one of the evaluation items'."""
    private = {_layout(item) for item in items if "layout" in item}
    names = {str(item["id"]) for item in items}
    return _where(lines, lambda line: _layout(line.value) in private or str(line.value.get("id")) in names)


def _layout(value: Mapping[str, object]) -> str:
    return digest(encode({"layout": value.get("layout")})).hex


def _where(lines: Sequence[Line], test: Callable[[Line], bool]) -> list[Line]:
    return [line for line in lines if test(line)]
