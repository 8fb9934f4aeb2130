"""What people handed in, and whose answers a proposal must say that it was trained on.

Invariants:
- Answers enter by a record that their person signed, under the roster in force; each statement once.
- A proposal names as authors everybody whose answers to its asker count when it is recorded: handed in, not all
  skipped, signed with a key that is not revoked, not erased, and followed by nothing of theirs to this asker that was
  either: no answer comes back into force because what replaced it is gone. Its asker follows from technique and
  recipe, so nothing in a record can leave it out.
- From the first such record on, a log takes no author who handed in nothing to the proposal's asker. What a log
  from before says of its authors stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from guardrails.decision_log.keys import person_keyid
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import ERASED_TABLE, Reader, Tables
from guardrails.errors import DeniedError, RecordError
from guardrails.ledger.people import find_person, require_own
from guardrails.ledger.rows import AnswersRow, read, read_all, require_model, require_roster, write
from guardrails.records import Answers, Proposal, Roster


def hand_in(tables: Tables, entry: Entry, answers: Answers) -> None:
    """Note what a person handed in, or refuse it."""
    roster = require_roster(tables)
    require_own(entry, find_person(roster, answers.person), answers.roster, roster, "hand-in")
    require_model(tables, answers.model)
    if not answers.asker or answers.answers < 1 or not 0 <= answers.skipped <= answers.answers:
        raise RecordError(
            "answers: an asker is needed, and at least one answer, of which none to all are skipped"
        )
    former = read(tables, AnswersRow, answers.statement.hex)
    if former is not None:
        raise DeniedError(f"these answers were handed in already, by record {former.seq}")
    row = AnswersRow(
        answers.statement, answers.model, answers.asker, answers.person, entry.signatures[0].keyid, answers.answers,
        answers.skipped, answers.roster, entry.statement.time, entry.seq, entry.leaf_digest,
    )  # fmt: skip
    write(tables, row, answers.statement.hex)


def handed_in(tables: Reader, model: str = "", asker: str = "") -> list[AnswersRow]:
    """What people handed in (about one model, to one asker), oldest first."""
    find: Callable[[str, str], list[str]] | None = getattr(tables, "labelled", None)
    rows: Iterator[AnswersRow | None]
    if find is None or not (model and asker):
        rows = iter(read_all(tables, AnswersRow))
    else:
        rows = (read(tables, AnswersRow, key) for key in find(AnswersRow.TABLE, f"{model} {asker}"))
    found = [row for row in rows if row is not None and model in ("", row.model) and asker in ("", row.asker)]
    return sorted(found, key=lambda row: row.seq)


def standing(
    tables: Reader, roster: Roster, model: str = "", asker: str = "", erased: Collection[str] = frozenset()
) -> list[tuple[AnswersRow, str]]:
    """What people handed in, oldest first, each with why it counts no more; empty where it counts.

    The log does not tell which questions a record answers. Any later one may be a correction, and once that is gone
    nobody can say which earlier answers their author had replaced: none of them counts then. With ``erased``,
    statements (hex) that no record erased yet, it says what would be.
    """
    lost: dict[tuple[str, str, str], str] = {}
    found = []
    for row in reversed(handed_in(tables, model, asker)):
        about = (row.person, row.model, row.asker)
        why = _gone(tables, row, roster, erased)
        found.append((row, why or lost.get(about, "")))
        if why:
            lost[about] = (
                f"record {row.seq}, handed in after them, may have corrected them, and counts no more"
            )
    return found[::-1]


def _gone(tables: Reader, row: AnswersRow, roster: Roster, erased: Collection[str]) -> str:
    if (record := tables.get(ERASED_TABLE, row.statement.hex)) is not None:
        return f"record {record['seq']} erased them"
    if row.statement.hex in erased:
        return "they are to be erased"
    person = find_person(roster, row.person)
    if not any(person_keyid(key.public) == row.key and not key.revoked for key in person.keys):
        return "the key that signed them was revoked"
    return ""


def authors_of(tables: Reader, proposal: Proposal) -> tuple[str, ...]:
    """The authors that a proposal names, and everybody else whose answers to its asker count now; sorted."""
    roster = require_roster(tables)
    due = {
        row.person for row, why in standing(tables, roster, proposal.model, proposal.asker)
        if row.answers > row.skipped and not why
    }  # fmt: skip
    return tuple(sorted({*proposal.authors, *due}))


def require_authors(tables: Reader, proposal: Proposal) -> None:
    """Refuse a proposal that leaves out an author, or names one who handed in nothing to its asker."""
    unnamed = set(authors_of(tables, proposal)) - set(proposal.authors)
    if unnamed:
        raise DeniedError(
            f"{min(unnamed)} has handed in answers to {proposal.asker}, and is not named as an author",
            hint="a proposal names everybody whose answers to its asker count",
        )
    if not proposal.authors or next(iter(read_all(tables, AnswersRow)), None) is None:
        return
    rows = handed_in(tables, proposal.model, proposal.asker)
    foreign = set(proposal.authors) - {row.person for row in rows if row.answers > row.skipped}
    if foreign:
        raise DeniedError(
            f"{min(foreign)} is named as an author, and handed in no answer to {proposal.asker}"
        )
