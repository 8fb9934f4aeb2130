"""A census of the records that a model learnt from: what should not be among them. Exact counts.

Invariants:
- Every record is looked at; a count is of records, and each counted record is listed by file and line.
- A record cannot talk its way out: no comment in it switches a detector off.
- Counts have no opinion; how many are too many is the policy's business.

Text records give ``data.records``, ``data.near_duplicates`` (records like an earlier one), ``data.pii``,
``data.secrets``, ``data.language`` (not English), ``data.overlap`` (repeats an evaluation item) and
``data.generated``. Records with a ``layout`` give those of them that have a meaning for levels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from guardrails.canonical import digest, encode
from sandbox.worker.data import Line
from sandbox.worker.probes import Item, personal_data

SHINGLE = 3  # words in a shingle, for likeness
LIKE = 0.8  # share of common shingles from which two records are near-duplicates
PERMUTATIONS = 64
RUN = 13  # words in a row that a record shares with an evaluation item to count as overlap
SHORT_RUN = 8  # the shortest item that can be recognised; shorter ones are common phrases
LANGUAGE = "en"
LANGUAGE_LETTERS = 40  # below that many letters no language can be told
LANGUAGE_SURE = 0.9
SECRET_PLUGINS = (
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "KeywordDetector",
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


@dataclass
class Census:
    """The counts as facts, and for each the records counted."""

    facts: dict[str, str] = field(default_factory=dict)
    flagged: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, name: str, lines: Sequence[Line]) -> None:
        """Count the records that have something."""
        self.facts[f"data.{name}"] = str(len(lines))
        if lines:
            self.flagged[f"data.{name}"] = tuple(line.place for line in lines)


def census(lines: Sequence[Line], suites: Sequence[Sequence[Item]]) -> Census:
    """Look through all records; ``suites`` are the items that they must not repeat."""
    found = Census()
    found.facts["data.records"] = str(len(lines))
    found.add("generated", [line for line in lines if line.generated])
    items = [item for suite in suites for item in suite]
    if lines and all("layout" in line.value for line in lines):
        found.add("near_duplicates", repeated_layouts(lines))
        found.add("overlap", shared_layouts(lines, items))
        return found
    found.add("near_duplicates", near_duplicates(lines))
    found.add("pii", [line for line in lines if next(personal_data.find(line.text), None)])
    found.add("secrets", with_secrets(lines))
    found.add("language", not_english(lines))
    found.add("overlap", overlapping(lines, items))
    return found


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return re.findall(r"[^\W_]+", text.lower())


def near_duplicates(lines: Sequence[Line]) -> list[Line]:
    """Records that are like an earlier one; candidates from MinHash, then compared exactly."""
    from datasketch import MinHash, MinHashLSH

    # Tuned to miss few: a false candidate costs one exact comparison, a miss is a miss.
    index = MinHashLSH(threshold=LIKE, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    kept: list[frozenset[str]] = []
    found = []
    for line in lines:
        shingles = frozenset(_runs(words(line.text), SHINGLE)) or frozenset([line.text])
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in sorted(shingles)])
        if any(likeness(shingles, kept[at]) >= LIKE for at in index.query(sketch)):
            found.append(line)
            continue
        index.insert(len(kept), sketch, check_duplication=False)
        kept.append(shingles)
    return found


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard index: the share that is common to both."""
    return len(one & other) / len(one | other)


def with_secrets(lines: Sequence[Line]) -> list[Line]:
    """Records that hold a key, a token or a password."""
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    plugins = {"plugins_used": [{"name": name} for name in SECRET_PLUGINS]}
    with transient_settings(plugins) as settings:
        # By default a comment in the scanned line switches the scan off.
        settings.disable_filters("detect_secrets.filters.allowlist.is_line_allowlisted")
        return [line for line in lines if any(next(scan_line(row), None) for row in line.text.splitlines())]


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


def overlapping(lines: Sequence[Line], items: Sequence[Item]) -> list[Line]:
    """Records that share a run of words with an evaluation item, or hold a short one whole."""
    lengths: dict[int, set[str]] = {}
    for item in items:
        for text in (item.get("text"), item.get("prompt")):
            spoken = words(text) if isinstance(text, str) else []
            length = min(RUN, len(spoken))
            if length >= SHORT_RUN:
                lengths.setdefault(length, set()).update(_runs(spoken, length))
    return _where(lines, lambda line: _shares(words(line.text), lengths))


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


def _shares(spoken: list[str], lengths: Mapping[int, set[str]]) -> bool:
    return any(run in known for length, known in lengths.items() for run in _runs(spoken, length))


def _runs(spoken: Sequence[str], length: int) -> Iterator[str]:
    for start in range(len(spoken) - length + 1):
        yield " ".join(spoken[start : start + length])
