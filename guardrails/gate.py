"""The gate: the only way to change anything. It builds records, appends them, and nothing else.

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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from guardrails import canonical, origins, rehearsal
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log.envelope import (
    Reference,
    Signer,
    Statement,
    format_time,
    parse_statement,
    parse_time,
    seal,
)
from guardrails.decision_log.keys import ServiceKey, service_keyid
from guardrails.decision_log.store import Entry, Log, Snapshot, Transaction
from guardrails.decision_log.tables import Reader
from guardrails.decisions import MAX_REASON_CHARS, Draft, Intention, Receipt, prepare, reference_to
from guardrails.errors import (
    DeniedError,
    InterlockError,
    JobFailedError,
    RecordError,
    StaleError,
)
from guardrails.ledger import asked, budgets, champions, judging, remarks, removal, standing, subjects
from guardrails.ledger.people import SERVICE_OF
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
    workspace_time,
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
    Promotion,
    Proposal,
    Removal,
    Rollback,
    Roster,
    State,
    Transition,
    Verdict,
    open_text,
)
from guardrails.registry import ArtifactError, ArtifactStore

MAX_LOG_TAIL = 4000
MAX_JUMP = timedelta(days=366)
"""How far the gate's clock may be ahead of the log before a root has to say that it is right."""

VOTES = (Action.APPROVE, Action.REJECT, Action.WITHDRAW, Action.REQUEST_CHANGES)
"""What people decide about a proposal."""


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


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class Gate:
    """Prepares, signs for the services, and appends. ``secret`` keys the draw of private items."""

    def __init__(
        self, log: Log, store: ArtifactStore, services: Mapping[str, Signer], secret: bytes,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:  # fmt: skip
        self.log = log
        self.store = store
        self._services = services
        self._secret = secret
        self._clock = clock

    # --- set-up --------------------------------------------------------------------------

    def draft_roster(self, roster: Roster) -> bytes:
        """The exact bytes that the roots sign to put a roster in force."""
        with self.log.read_proven() as snapshot:
            return self._statement(snapshot, roster, ()).encode()

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
        held = {**self._services, **(successors or {})}
        with self.log.transaction((successors or {}).get("log")) as tx:
            reference = tx.append(envelope, names).reference
            for name, public in require_roster(tx.tables).services.items():
                if held[name].keyid != service_keyid(public):
                    raise DeniedError(
                        f"the roster names a key of the {name} service that is not here; nothing was written",
                        hint=f"commit it where `interlock roster rotate-service {name}` made the key",
                    )
        self._services = held
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
            budgets.require_within_budgets(snapshot.tables, row, self._now())
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
            proposal = Proposal(id=self._next_id(tx, "P"), kind=ModelKind(model.kind), **fields)
            self._append(tx, proposal, openings=[intent])
            return proposal.id

    def record_failure(
        self, model: str, stage: str, technique: str, error: InterlockError, proposal_id: str = ""
    ) -> str:
        """Append the record of a job that failed; returns the id under which it is listed."""
        tail, compute = (error.log_tail, error.compute) if isinstance(error, JobFailedError) else ("", None)
        with self.log.transaction() as tx:
            failure = Failure(
                proposal_id or self._next_id(tx, "P"), model, stage, technique,
                _printable(error.message)[:1000], _printable(tail)[-MAX_LOG_TAIL:],
                compute if isinstance(compute, Compute) else None,
            )  # fmt: skip
            self._append(tx, failure)
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
            opened = Digest(self._append(tx, note).leaf)
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
            return self._append(tx, evidence, references).reference

    # --- verdicts ------------------------------------------------------------------------

    def judge(self, proposal_id: str) -> str:
        """Judge the newest evidence by the policies in force and append the verdict; returns the new state."""
        with self.log.read_proven() as snapshot:
            row = require_proposal(snapshot.tables, proposal_id)
        # Reading and hashing takes time, so it is done before the log is locked.
        measurements = judging.read_measurements(self.store, row)
        intact = row.proposal is not None and judging.is_intact(self.store, row.proposal.bundle)
        with self.log.transaction() as tx:
            now = self._now()
            if require_proposal(tx.tables, proposal_id).evidence_record != row.evidence_record:
                raise StaleError(f"{row.id}: measured again meanwhile")
            row = require_proposal(tx.tables, proposal_id)
            verdict = judging.judge(tx.tables, row, measurements, now, intact=intact)
            references = [
                reference_to(row.proposal_seq, row.proposal_record), reference_to(row.evidence_seq, row.evidence_record),
            ]  # fmt: skip
            self._append(tx, verdict, references, now=now)
            return require_proposal(tx.tables, proposal_id).state.value

    def verdict_on(
        self, snapshot: Snapshot, row: ProposalRow, policies: list[LoadedPolicy] | None = None
    ) -> Verdict:
        """What the engine says of a proposal's evidence, without recording it (what-if)."""
        measurements = judging.read_measurements(self.store, row)
        intact = row.proposal is not None and judging.is_intact(self.store, row.proposal.bundle)
        return judging.judge(
            snapshot.tables, row, measurements, self._now(), intact=intact, policies=policies
        )

    # --- decisions of people -------------------------------------------------------------

    def draft(self, wish: Intention) -> Draft:
        """Bind what a person wants to decide to the state of now, as the bytes that they will sign."""
        with self.log.read_proven() as snapshot:
            now = self._now()
            if wish.action is Action.ROLLBACK:
                now = self._not_before(snapshot.tables, now)
            return prepare(snapshot, wish, now)

    def commit(self, draft: Draft, signer: Signer) -> Receipt:
        """Sign a draft and append it; with the last signature needed, what it permits happens at once."""
        envelope = seal(draft.payload, signer)
        # What counts is what is signed: a draft may come back from elsewhere.
        statement = parse_statement(draft.payload)
        if statement.record != "decision":
            raise RecordError(f"a decision is needed, not a {statement.record}")
        decision = decode_record(Decision, dict(statement.body))
        if statement.time > self._now() and decision.action is not Action.ROLLBACK:
            raise DeniedError(f"the decision is dated {statement.time}, which is still to come")
        for opening in draft.openings:
            if len(opening.text) > MAX_REASON_CHARS:
                raise RecordError(f"a text of {len(opening.text)} characters, {MAX_REASON_CHARS} are kept")
        if decision.action is Action.APPROVE:
            with self.log.read_proven() as snapshot:
                row = read(snapshot.tables, ProposalRow, decision.target)
            if row is not None:
                self._require_intact(row)
        if decision.action is Action.ADOPT and decision.digest is not None:
            self.store.verify_tree(decision.digest)
        ready = self._prepared(decision) if decision.action in (Action.APPROVE, Action.WITHDRAW) else None
        with self.log.transaction() as tx:
            if statement.time > self._not_before(tx.tables, self._now()):
                raise DeniedError(f"the decision is dated {statement.time}, which is still to come")
            self._require_unexpired(tx, decision)
            remarks.require_room(tx.tables, decision)
            entry = tx.append(envelope, draft.openings)
            state, effect = self._follow(tx, decision, ready)
        return Receipt(decision.action, decision.target, decision.request, entry.reference, state, effect)

    def remove(self, proposal_id: str) -> str:
        """Record that a proposal's bundle is removed; returns a sentence. ``retention`` then removes the files."""
        with self.log.transaction() as tx:
            row = require_proposal(tx.tables, proposal_id)
            if row.proposal is None:
                raise DeniedError(f"{row.id} has no bundle")
            note = Removal(row.id, row.proposal.bundle, removal.kept_days(tx.tables, row))
            self._append(tx, note)
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
        now = self._now()
        with self.log.read_proven() as snapshot:
            due = standing.due(snapshot.tables, row, now)
        if due is standing.Due.JUDGE:
            return f"{row.id}: judged again, {self.judge(row.id)}"
        if due is standing.Due.EXPIRE:
            with self.log.transaction() as tx:
                self._append(tx, Transition(row.id, State.EXPIRED, "nobody decided in time"))
            return f"{row.id}: expired"
        if due is standing.Due.PROMOTE:
            self._require_intact(row)
            ready = self._rehearsed(row)
            with self.log.transaction() as tx:
                self._promote(tx, require_proposal(tx.tables, row.id), ready)
            return f"{row.id}: promoted"
        return ""

    def _prepared(self, decision: Decision) -> Digest | None:
        """What a decision that may promote needs beforehand, outside of the transaction; None if it cannot."""
        with self.log.read_proven() as snapshot:
            row = read(snapshot.tables, ProposalRow, decision.target)
            if row is None or not standing.may_complete(snapshot.tables, row, self._now()):
                return None
        if decision.action is Action.WITHDRAW and not row.changes:
            return None
        return self._rehearsed(row)

    def _rehearsed(self, row: ProposalRow) -> Digest | None:
        """Restore the champion that a promotion of this proposal would replace; what it came to."""
        return None if row.evidence is None else rehearsal.rehearse(self.store, row.evidence.champion)

    def _require_unexpired(self, tx: Transaction, decision: Decision) -> None:
        """A request expires by the gate's clock, whatever a signer's statement says of its own time."""
        request = read(tx.tables, RequestRow, decision.request)
        if request is None or decision.action is Action.COMMENT:
            return
        if asked.state_of(tx.tables, request, self._now()) is asked.RequestState.EXPIRED:
            asked.require_open(tx.tables, request, self._now())

    def _follow(self, tx: Transaction, decision: Decision, ready: Digest | None) -> tuple[str, str]:
        """What a decision leads to in the same transaction: (state, sentence)."""
        if decision.action is Action.COMMENT:
            return "kept", "the comment stands in the log"
        if decision.action in VOTES and not decision.target.startswith("R-"):
            row = require_proposal(tx.tables, decision.target)
            if row.state is not State.APPROVED:
                return row.state.value, standing.sentence(tx.tables, row, self._now())
            waits_for = standing.obstacle(tx.tables, row, self._now())
            if waits_for:
                self._append(tx, Transition(row.id, State.APPROVED, "quorum complete"))
                return State.APPROVED.value, f"approved; the promotion waits: {waits_for}"
            self._promote(tx, row, ready)
            return State.PROMOTED.value, f"promoted: champion of {row.model}"
        if decision.action is Action.ADOPT:
            return "adopted", f"{decision.target} has a champion"
        request = read(tx.tables, RequestRow, decision.request)
        if request is None:
            raise InterlockError(f"request {decision.request} is not in the log that it was just written to")
        if request.action is Action.ROLLBACK and not request.done and decision.action is Action.ROLLBACK:
            return self._follow_rollback(tx, request)
        if request.done and request.action is Action.ERASE:
            tx.forget(request.erase)
            count = len(request.erase)
            return "done", f"{count} {'text is' if count == 1 else 'texts are'} erased"
        if request.done:
            lifted = request.action is Action.RESUME
            return "done", "the halt is lifted" if lifted else f"{request.action} is in force"
        state = asked.state_of(tx.tables, request, self._now())
        return state.value, asked.missing_of(tx.tables, request, self._now())

    def _follow_rollback(self, tx: Transaction, request: RequestRow) -> tuple[str, str]:
        # Where a wrong clock has dated the log ahead, the way back stays open: at the log's own time.
        now = self._not_before(tx.tables, self._now())
        tally = asked.tally_request(tx.tables, request, now)
        if not tally.complete or request.digest is None:
            return "open", tally.missing
        model = require_model(tx.tables, request.target)
        _, quarantined = champions.after_rollback(tx.tables, model, request.digest)
        rollback = Rollback(
            request.id, model.name, request.digest, model.champion,
            tuple(vote.record for vote in request.votes), quarantined, tally.sole_person,
        )  # fmt: skip
        self.store.verify_tree(request.digest)
        references = [reference_to(vote.seq, vote.record) for vote in request.votes]
        self._append(tx, rollback, references, now=now)
        return "rolled_back", f"{model.name} is back at {request.digest.short}"

    def _promote(self, tx: Transaction, row: ProposalRow, ready: Digest | None) -> None:
        if row.proposal is None or row.verdict_record is None:
            raise InterlockError(f"{row.id} is approved without a verdict")
        model = require_model(tx.tables, row.model)
        stands = standing.standing_of(tx.tables, row, self._now())
        promotion = Promotion(
            row.id, row.model, row.proposal.bundle, model.champion, stands.decisions, stands.tally.sole_person,
            # Somebody else may have made the quorum complete meanwhile; then it is tried here.
            ready or rehearsal.rehearse(self.store, model.champion),
        )  # fmt: skip
        references = [reference_to(row.verdict_seq, row.verdict_record)]
        references += [
            reference_to(vote.seq, vote.record) for vote in row.votes if vote.record in stands.decisions
        ]
        self._append(tx, promotion, references)

    def _append(
        self, tx: Transaction, record: Any, references: Iterable[Reference] = (),
        openings: Iterable[Opening] = (), now: str = "",
    ) -> Entry:  # fmt: skip
        """Sign a machine record with its service's key and append it."""
        statement = self._statement(tx, record, references, now)
        if not isinstance(record, Rollback):
            # A way back is never held up by a doubt about the clock.
            _require_plausible(tx, statement.time)
        return tx.append(seal(statement.encode(), self._services[SERVICE_OF[statement.record]]), openings)

    def _statement(
        self, snapshot: Snapshot, record: Any, references: Iterable[Reference], now: str = "",
    ) -> Statement:  # fmt: skip
        kind = type(record).__name__.lower()
        time = now or self._now()
        about = subjects.subjects_of(snapshot.tables, record)
        return Statement(kind, about, encode_record(record), snapshot.origin, time, tuple(references))

    def _nonce(self, opened: Digest) -> str:
        """The nonce of the measurement that a record opened; nobody without the secret can know it before."""
        return hmac.new(self._secret, f"nonce:{opened.hex}".encode(), hashlib.sha256).hexdigest()

    def _now(self) -> str:
        return format_time(self._clock())

    @staticmethod
    def _not_before(tables: Reader, now: str) -> str:
        """A time of the gate's clock, or that of the newest machine record where this one is later."""
        return max(now, workspace_time(tables))

    @staticmethod
    def _require_unbarred(tx: Transaction, submission: Submission) -> None:
        """What a rollback of one model barred is not handed in for another; the ledger sees to the model's own."""
        for other in read_all(tx.tables, ModelRow):
            own = other.name == submission.model
            if not own and submission.bundle in champions.barred_bundles(tx.tables, other):
                raise DeniedError(
                    f"bundle {submission.bundle.short} is quarantined: {other.name} was rolled back"
                )

    @staticmethod
    def _next_id(snapshot: Snapshot, prefix: str) -> str:
        workspace = read(snapshot.tables, Workspace)
        if workspace is None:
            raise DeniedError("nobody has been set up yet", hint="run `interlock init --operator NAME`")
        return workspace.next_id(prefix)

    def _require_intact(self, row: ProposalRow) -> None:
        """What was measured must still be what would be promoted, to the byte."""
        if row.proposal is None or row.evidence is None:
            return
        if not judging.is_intact(self.store, row.proposal.bundle):
            raise DeniedError(f"{row.id}: the bundle in the artifact store is damaged; it cannot be approved")


def _require_plausible(tx: Transaction, time: str) -> None:
    """Refuse a record whose time is far ahead of the log's: it could not be taken back, and would block others."""
    workspace = read(tx.tables, Workspace)
    if workspace is None or parse_time(time) - parse_time(workspace.time) <= MAX_JUMP:
        return
    raise DeniedError(
        f"the clock says {time}, the newest record is of {workspace.time}: more than {MAX_JUMP.days} days before",
        hint="if the clock is right: interlock clock confirm --reason …; if not, set it right",
    )


def _printable(text: str) -> str:
    """Text from a job, made safe to show: no control characters (terminal escapes), no lone surrogates."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in clean)
