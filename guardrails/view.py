"""What the log says, for people to read: names, texts, proposals, champions. Changes nothing, needs no key.

Invariants: a view is one consistent state of the log; a text whose opening was erased reads ``ERASED``,
never as an empty text; no name holds a character that cannot be printed, whoever put it into the roster;
names are unique among the people of a roster or a lookup is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guardrails.decision_log.store import Log, Snapshot
from guardrails.decision_log.tables import ERASED_TABLE
from guardrails.errors import UnknownNameError, UsageError
from guardrails.ledger import asked, standing
from guardrails.ledger.asked import RequestState
from guardrails.ledger.rows import (
    ModelRow,
    PolicyRow,
    ProposalRow,
    RequestRow,
    RosterRow,
    WaiverRow,
    Workspace,
    read,
    read_all,
    require_model,
    require_proposal,
)
from guardrails.ledger.standing import Standing
from guardrails.records import Commitment, Person, Roster

ERASED = "(erased)"


@dataclass(frozen=True)
class View:
    """Answers from one snapshot. Valid inside the ``with`` block that gave it."""

    snapshot: Snapshot

    @property
    def roster(self) -> Roster | None:
        """The roster in force; None before set-up."""
        row = read(self.snapshot.tables, RosterRow)
        return row.roster if row else None

    @property
    def halted_by(self) -> RequestRow | None:
        """The halt in force, if any."""
        workspace = read(self.snapshot.tables, Workspace)
        if workspace is None or not workspace.halted_by:
            return None
        return read(self.snapshot.tables, RequestRow, workspace.halted_by)

    def proposals(self, model: str = "") -> list[ProposalRow]:
        """All proposals (of a model), newest first."""
        rows = [row for row in read_all(self.snapshot.tables, ProposalRow) if not model or row.model == model]
        return rows[::-1]

    def proposal(self, proposal_id: str) -> ProposalRow:
        """One proposal; raises UnknownNameError."""
        return require_proposal(self.snapshot.tables, proposal_id)

    def models(self) -> list[ModelRow]:
        """All models, by name."""
        return list(read_all(self.snapshot.tables, ModelRow))

    def model(self, name: str) -> ModelRow:
        """One model; raises UnknownNameError."""
        return require_model(self.snapshot.tables, name)

    def policies(self) -> list[PolicyRow]:
        """The policies in force, shadow ones too."""
        return list(read_all(self.snapshot.tables, PolicyRow))

    def requests(self) -> list[RequestRow]:
        """All requests, oldest first."""
        return list(read_all(self.snapshot.tables, RequestRow))

    def request(self, request_id: str) -> RequestRow:
        """One request; raises UnknownNameError."""
        row = read(self.snapshot.tables, RequestRow, request_id)
        if row is None:
            raise UnknownNameError(f"there is no request {request_id:.40}")
        return row

    def request_state(self, row: RequestRow, now: str) -> RequestState:
        """Whether a request can still take effect, or why not."""
        return asked.state_of(self.snapshot.tables, row, now)

    def waivers(self) -> list[WaiverRow]:
        """All waivers that were granted."""
        return list(read_all(self.snapshot.tables, WaiverRow))

    def standing(self, row: ProposalRow, now: str) -> Standing | None:
        """How far a judged proposal is from promotion; None where it cannot be approved."""
        if standing.binding_of(self.snapshot.tables, row) is None:
            return None
        return standing.standing_of(self.snapshot.tables, row, now)

    def text(self, commitment: Commitment) -> str:
        """The text behind a commitment, or ``ERASED``; with the record that erased it, where one did."""
        opening = self.snapshot.opening(commitment)
        return self.erasure(commitment) if opening is None else opening.text

    def erasure(self, commitment: Commitment) -> str:
        """What stands in place of a text that is gone."""
        row = self.snapshot.tables.get(ERASED_TABLE, commitment.sha256)
        return ERASED if row is None else f"(erased on {str(row['at'])[:10]} by record {row['seq']})"

    def people(self) -> list[tuple[Person, str]]:
        """Everybody in the roster, with their names."""
        roster = self.roster
        return [(person, _printable(self.text(person.name))) for person in roster.people] if roster else []

    def name_of(self, person_id: str) -> str:
        """The name of a person; their id where the name was erased or they left the roster."""
        for person in self.roster.people if self.roster else ():
            if person.id == person_id:
                opening = self.snapshot.opening(person.name)
                return person_id if opening is None else _printable(opening.text)
        return person_id

    def person_called(self, name: str) -> Person:
        """The person with a name or an id; raises if there is none, or more than one."""
        found = [person for person, own in self.people() if name in (own, person.id)]
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} people are called {name:.80}", hint="use the id from `roster show`"
            )
        if not found:
            known = ", ".join(own for _, own in self.people()) or "nobody yet"
            raise UnknownNameError(f"nobody here is called {name:.80}", hint=f"known: {known}")
        return found[0]


def _printable(name: str) -> str:
    """A name without what could command a terminal or turn the direction of writing; set-up takes no other."""
    return "".join(c if c.isprintable() else "·" for c in name)


@contextmanager
def view_of(log: Log) -> Iterator[View]:
    """A view of the log as it is now, as the database's tables tell it."""
    with log.read() as snapshot:
        yield View(snapshot)


@contextmanager
def proven_view_of(log: Log) -> Iterator[View]:
    """A view of the log as its signed records make it: what is shown to somebody who is about to sign.

    Raises:
        LogVerificationError: the records do not hold, or the database's tables say something else.
    """
    with log.read_proven() as snapshot:
        yield View(snapshot)
