"""The gate: the only way to change anything. It builds records, appends them, and nothing else.

What may be asked of it stands here; ``clerk`` signs and dates what machines record, ``decisions`` prepares what people
sign, and ``effects`` is what follows from their signatures.

Invariants:
- Every change is one append of signed records in one transaction; ``ledger.project`` decides inside that
  transaction whether the rules allow it. The gate has no rules of its own: it prepares, signs for the
  services, and asks.
- An artifact is complete and flushed before a record names it, and checked again before it is promoted.
- The clock is read once per record and never runs backwards in the log.
- A person's decision is signed by that person over the very bytes that are appended; the gate can
  prepare such bytes but cannot make them count.
- The last signature that completes a quorum and the change that it permits are one transaction.
- No table of the database is believed: whatever is prepared, judged, allowed or signed follows from the signed records
  (``decision_log.proven``), and nothing is appended while the tables say something else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from guardrails import canonical, effects, origins
from guardrails.answers import record_of
from guardrails.canonical import Digest
from guardrails.clerk import Clerk, utc_now
from guardrails.codec import decode_record
from guardrails.decision_log.envelope import (
    Reference,
    Signer,
    parse_statement,
    seal,
)
from guardrails.decision_log.keys import ServiceKey, service_keyid
from guardrails.decision_log.store import Log, Snapshot, Transaction
from guardrails.decisions import MAX_REASON_CHARS, Draft, Intention, Receipt, prepare, reference_to
from guardrails.errors import (
    DeniedError,
    InterlockError,
    JobFailedError,
    RecordError,
    StaleError,
)
from guardrails.ledger import (
    answers,
    asked,
    budgets,
    champions,
    judging,
    remarks,
    removal,
    standing,
)
from guardrails.ledger.rows import (
    ModelRow,
    ProposalRow,
    RequestRow,
    Workspace,
    read,
    read_all,
    require_model,
    require_not_halted,
    require_proposal,
    require_roster,
)
from guardrails.matches import Stopping, stopping
from guardrails.policy import LoadedPolicy, Subject
from guardrails.records import (
    Action,
    Compute,
    Decision,
    Evidence,
    Failure,
    Measurements,
    ModelKind,
    Opening,
    Proposal,
    Removal,
    Roster,
    State,
    Transition,
    Verdict,
    open_text,
)
from guardrails.registry import ArtifactError, ArtifactStore

__all__ = ["Gate", "MeasurementOrder", "Submission", "utc_now"]

MAX_LOG_TAIL = 4000


@dataclass(frozen=True)
class Submission:
    """What is known of a new proposal before the log gives it an id. See ``records.Proposal``."""

    model: str
    technique: str
    intent: str
    bundle: Digest
    champion: Digest
    data: Digest
    objective: Digest
    recipe: dict[str, str]
    seed: int
    environment: dict[str, str]
    isolation: str
    submitted: bool
    compute: Compute
    proposer: str
    authors: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasurementOrder:
    """What to measure, against what, with which draw of items. ``record`` opened the measurement.

    ``matches``: suites whose match may stop early, by the rules in force as it begins, and when.
    """

    proposal: str
    technique: str
    bundle: Digest
    champion: Digest
    original: Digest
    data: Digest
    submitted: bool
    nonce: str
    seed: int
    record: Digest
    matches: Mapping[str, Stopping] = field(default_factory=dict)


class Gate:
    """Prepares, signs for the services, and appends. ``secret`` keys the draw of private items."""

    def __init__(
        self, log: Log, store: ArtifactStore, services: Mapping[str, Signer], secret: bytes,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:  # fmt: skip
        self.log = log
        self.store = store
        self._secret = secret
        self._clerk = Clerk(services, clock)

    # --- set-up --------------------------------------------------------------------------

    def draft_roster(self, roster: Roster) -> bytes:
        """The exact bytes that the roots sign to put a roster in force."""
        with self.log.read_proven() as snapshot:
            return self._clerk.state(snapshot, roster).encode()

    def record_roster(self, roster: Roster, signer: Signer, names: Iterable[Opening]) -> Reference:
        """Append a roster signed by one root; the first one founds the workspace."""
        return self.commit_roster(seal(self.draft_roster(roster), signer), names)

    def commit_roster(
        self, envelope: bytes, names: Iterable[Opening], successors: Mapping[str, ServiceKey] | None = None
    ) -> Reference:
        """Append a roster that its roots have signed; ``successors`` are the new keys of services it names.

        Raises:
            DeniedError: it names a service key that this gate does not hold: nothing could go on.
        """
        held = {**self._clerk.services, **(successors or {})}
        with self.log.transaction((successors or {}).get("log")) as tx:
            reference = tx.append(envelope, names).reference
            for name, public in require_roster(tx.tables).services.items():
                if held[name].keyid != service_keyid(public):
                    raise DeniedError(
                        f"the roster names a key of the {name} service that is not here; nothing was written",
                        hint=f"commit it where `interlock roster rotate-service {name}` made the key",
                    )
        self._clerk.services = held
        return reference

    # --- what the loop reports -----------------------------------------------------------

    def require_ready(self, model: str) -> Digest:
        """The champion to train from; refuses while halted, before set-up, or over the policies' budgets.

        Raises:
            LogVerificationError: the tables say something else than the signed records.
        """
        with self.log.read_proven() as snapshot:
            require_roster(snapshot.tables)
            require_not_halted(snapshot.tables)
            row = require_model(snapshot.tables, model)
            budgets.require_within_budgets(snapshot.tables, row, self._clerk.now())
            return row.champion

    def halted_by(self) -> str:
        """The id of the halt in force, or an empty text."""
        with self.log.read_proven() as snapshot:
            workspace = read(snapshot.tables, Workspace)
            return workspace.halted_by if workspace else ""

    def record_proposal(self, submission: Submission) -> str:
        """Append a proposal; returns its id. Its bundle must be in the store."""
        intent = open_text(submission.intent[:MAX_REASON_CHARS])
        generated = origins.generated_files(self.store, submission.bundle, submission.data)
        fields = {**submission.__dict__, "intent": intent.commitment(), "generated": generated}
        with self.log.transaction() as tx:
            require_not_halted(tx.tables)
            model = require_model(tx.tables, submission.model)
            self._require_unbarred(tx, submission)
            proposal = Proposal(id=self._clerk.next_id(tx, "P"), kind=ModelKind(model.kind), **fields)
            # Whoever handed in while it was trained has a say in what comes next, and none in this.
            proposal = replace(proposal, authors=answers.authors_of(tx.tables, proposal))
            self._clerk.append(tx, proposal, openings=[intent])
            return proposal.id

    def record_failure(
        self, model: str, stage: str, technique: str, error: InterlockError, proposal_id: str = ""
    ) -> str:
        """Append the record of a job that failed; returns the id under which it is listed."""
        tail, compute = (error.log_tail, error.compute) if isinstance(error, JobFailedError) else ("", None)
        with self.log.transaction() as tx:
            failure = Failure(
                proposal_id or self._clerk.next_id(tx, "P"), model, stage, technique,
                _printable(error.message)[:1000], _printable(tail)[-MAX_LOG_TAIL:],
                compute if isinstance(compute, Compute) else None,
            )  # fmt: skip
            self._clerk.append(tx, failure)
            return failure.id

    def begin_measurement(self, proposal_id: str) -> MeasurementOrder:
        """Note that a measurement starts; its nonce follows from that note, so nobody could know it before.

        Raises:
            LogVerificationError: the tables say something else than the signed records.
        """
        with self.log.transaction() as tx:
            row = require_proposal(tx.tables, proposal_id)
            if row.proposal is None:
                raise DeniedError(f"{row.id} is {row.state}: there is nothing to measure")
            model = require_model(tx.tables, row.model)
            attempt = model.attempts + 1
            note = Transition(row.id, State.MEASURING, f"against champion {model.champion.short}", attempt)
            opened = self._clerk.append(tx, note).leaf_digest
            nonce = self._nonce(opened)
            subject = Subject.of(row.proposal, model.labels, None)
            return MeasurementOrder(
                row.id, row.technique, row.proposal.bundle, model.champion, model.original,
                row.proposal.data, row.proposal.submitted, nonce, int(nonce[:8], 16), opened,
                stopping(judging.in_force(tx.tables), subject, attempt),
            )  # fmt: skip

    def record_evidence(
        self, order: MeasurementOrder, measured: bytes, evaluator: str, isolation: str, compute: Compute
    ) -> Reference:
        """Append evidence; ``measured`` are the canonical bytes of ``records.Measurements``.

        Raises:
            DeniedError: the nonce is not the one of this measurement.
            StaleError: the measurement is not the newest of its proposal.
        """
        if not hmac.compare_digest(order.nonce, self._nonce(order.record)):
            raise DeniedError(f"{order.proposal}: the nonce is not the one that this measurement was given")
        measurements = decode_record(Measurements, canonical.parse(measured))
        address = self.store.put_bytes(measured)
        counts = {f"{s.probe}/{s.suite}": len(s.items) for s in measurements.series}
        evidence = Evidence(
            order.proposal, order.bundle, order.champion, address, counts, evaluator, order.nonce, order.seed,
            isolation, compute, order.record,
        )  # fmt: skip
        with self.log.transaction() as tx:
            row = require_proposal(tx.tables, order.proposal)
            references = [reference_to(row.proposal_seq, row.proposal_record)]
            return self._clerk.append(tx, evidence, references).reference

    # --- verdicts ------------------------------------------------------------------------

    def judge(self, proposal_id: str) -> str:
        """Judge the newest evidence by the policies in force and append the verdict; returns the new state."""
        with self.log.read_proven() as snapshot:
            row = require_proposal(snapshot.tables, proposal_id)
        # Reading and hashing takes time, so it is done before the log is locked.
        measurements = judging.read_measurements(self.store, row)
        intact = row.proposal is not None and judging.is_intact(self.store, row.proposal.bundle)
        with self.log.transaction() as tx:
            now = self._clerk.now()
            if require_proposal(tx.tables, proposal_id).evidence_record != row.evidence_record:
                raise StaleError(f"{row.id}: measured again meanwhile")
            row = require_proposal(tx.tables, proposal_id)
            verdict = judging.judge(tx.tables, row, measurements, now, intact=intact)
            references = [
                reference_to(row.proposal_seq, row.proposal_record), reference_to(row.evidence_seq, row.evidence_record),
            ]  # fmt: skip
            self._clerk.append(tx, verdict, references, now=now)
            return require_proposal(tx.tables, proposal_id).state.value

    def verdict_on(
        self, snapshot: Snapshot, row: ProposalRow, policies: list[LoadedPolicy] | None = None
    ) -> Verdict:
        """What the engine says of a proposal's evidence, without recording it (what-if)."""
        measurements = judging.read_measurements(self.store, row)
        intact = row.proposal is not None and judging.is_intact(self.store, row.proposal.bundle)
        return judging.judge(
            snapshot.tables, row, measurements, self._clerk.now(), intact=intact, policies=policies
        )

    # --- what people hand in -------------------------------------------------------------

    def record_answers(self, statements: Iterable[bytes], signer: Signer) -> list[Reference]:
        """Append one record for each statement of answers, signed by the person whose they are; all or none.

        Raises:
            RecordError: a statement is none, or of another log.
            DeniedError: the key is none of this person's that is in force, or a statement was handed in already.
            StaleError: it was prepared under another roster.
        """
        records = [(record_of(self.log.origin, data), data) for data in statements]
        for record, data in records:
            if self.store.put_bytes(data) != record.statement:
                raise InterlockError("the artifact store keeps other bytes than it was given")
        with self.log.transaction() as tx:
            return [
                tx.append(seal(self._clerk.state(tx, record).encode(), signer)).reference
                for record, _ in records
            ]

    # --- decisions of people -------------------------------------------------------------

    def draft(self, wish: Intention) -> Draft:
        """Bind what a person wants to decide to the state of now, as the bytes that they will sign."""
        with self.log.read_proven() as snapshot:
            clerk = self._clerk
            now = clerk.now_or_later(snapshot.tables) if wish.action is Action.ROLLBACK else clerk.now()
            return prepare(snapshot, wish, now)

    def commit(self, draft: Draft, signer: Signer) -> Receipt:
        """Sign a draft and append it; with the last signature needed, what it permits happens at once."""
        envelope = seal(draft.payload, signer)
        # What counts is what is signed: a draft may come back from elsewhere.
        statement = parse_statement(draft.payload)
        if statement.record != "decision":
            raise RecordError(f"a decision is needed, not a {statement.record}")
        decision = decode_record(Decision, dict(statement.body))
        if statement.time > self._clerk.now() and decision.action is not Action.ROLLBACK:
            raise DeniedError(f"the decision is dated {statement.time}, which is still to come")
        for opening in draft.openings:
            if len(opening.text) > MAX_REASON_CHARS:
                raise RecordError(f"a text of {len(opening.text)} characters, {MAX_REASON_CHARS} are kept")
        if decision.action is Action.APPROVE:
            with self.log.read_proven() as snapshot:
                row = read(snapshot.tables, ProposalRow, decision.target)
            if row is not None:
                effects.require_intact(self.store, row)
        if decision.action is Action.ADOPT and decision.digest is not None:
            self.store.verify_tree(decision.digest)
        ready = self._rehearsed(decision) if decision.action in effects.PROMOTING else None
        with self.log.transaction() as tx:
            if statement.time > self._clerk.now_or_later(tx.tables):
                raise DeniedError(f"the decision is dated {statement.time}, which is still to come")
            self._require_unexpired(tx, decision)
            remarks.require_room(tx.tables, decision)
            entry = tx.append(envelope, draft.openings)
            state, effect = effects.follow(self._clerk, self.store, tx, decision, ready)
        return Receipt(decision.action, decision.target, decision.request, entry.reference, state, effect)

    def remove(self, proposal_id: str) -> str:
        """Record that a proposal's bundle is removed; returns a sentence. ``retention`` then removes the files."""
        with self.log.transaction() as tx:
            row = require_proposal(tx.tables, proposal_id)
            if row.proposal is None:
                raise DeniedError(f"{row.id} has no bundle")
            note = Removal(row.id, row.proposal.bundle, removal.kept_days(tx.tables, row))
            self._clerk.append(tx, note)
        return f"{row.id}: bundle removed, kept for {note.days} days"

    def tick(self) -> list[str]:
        """Do what is due: expiries, new verdicts where policies changed, promotions after a cool-down."""
        done = []
        with self.log.read_proven() as snapshot:
            waiting = [
                row for row in read_all(snapshot.tables, ProposalRow)
                if row.state in (State.JUDGED, State.AWAITING_APPROVAL, State.APPROVED, State.BLOCKED)
            ]  # fmt: skip
        for row in waiting:
            try:
                effect = self._tick_one(row)
            except DeniedError as error:
                # What the rules do not allow yet stays due; the next tick tries again.
                effect = "" if row.state is State.APPROVED else f"{row.id}: {error}"
            except (ArtifactError, RecordError) as error:
                # One damaged artifact must not keep the others waiting.
                effect = f"{row.id}: {error}"
            if effect:
                done.append(effect)
        return done

    # --- inside --------------------------------------------------------------------------

    def _tick_one(self, row: ProposalRow) -> str:
        now = self._clerk.now()
        with self.log.read_proven() as snapshot:
            due = standing.due(snapshot.tables, row, now)
        if due is standing.Due.JUDGE:
            return f"{row.id}: judged again, {self.judge(row.id)}"
        if due is standing.Due.EXPIRE:
            with self.log.transaction() as tx:
                self._clerk.append(tx, Transition(row.id, State.EXPIRED, "nobody decided in time"))
            return f"{row.id}: expired"
        if due is standing.Due.PROMOTE:
            effects.require_intact(self.store, row)
            ready = effects.rehearsed(self.store, row)
            with self.log.transaction() as tx:
                effects.promote(self._clerk, self.store, tx, require_proposal(tx.tables, row.id), ready)
            return f"{row.id}: promoted"
        return ""

    def _rehearsed(self, decision: Decision) -> Digest | None:
        """The way back from a promotion that this decision may lead to, tried while nobody waits for the log."""
        with self.log.read_proven() as snapshot:
            row = effects.may_promote(snapshot.tables, decision, self._clerk.now())
        return None if row is None else effects.rehearsed(self.store, row)

    def _require_unexpired(self, tx: Transaction, decision: Decision) -> None:
        """A request expires by the gate's clock, whatever a signer's statement says of its own time."""
        request = read(tx.tables, RequestRow, decision.request)
        if request is None or decision.action is Action.COMMENT:
            return
        if asked.state_of(tx.tables, request, self._clerk.now()) is asked.RequestState.EXPIRED:
            asked.require_open(tx.tables, request, self._clerk.now())

    def _nonce(self, opened: Digest) -> str:
        """The nonce of the measurement that a record opened; nobody without the secret can know it before."""
        return hmac.new(self._secret, f"nonce:{opened.hex}".encode(), hashlib.sha256).hexdigest()

    @staticmethod
    def _require_unbarred(tx: Transaction, submission: Submission) -> None:
        """What a rollback of one model barred is not handed in for another; the ledger sees to the model's own."""
        for other in read_all(tx.tables, ModelRow):
            own = other.name == submission.model
            if not own and submission.bundle in champions.barred_bundles(tx.tables, other):
                raise DeniedError(
                    f"bundle {submission.bundle.short} is quarantined: {other.name} was rolled back"
                )


def _printable(text: str) -> str:
    """Text from a job, made safe to show: no control characters (terminal escapes), no lone surrogates."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in clean)
