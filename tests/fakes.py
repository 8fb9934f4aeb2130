"""A workspace without models: the production gate, log and store with real keys, and a clock to turn.

Nothing here is patched. People sign with real keys, bundles are small real directories, and what a measurement
job would have written is written by hand as ``records.Measurements``.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Reference, Statement, format_time, seal
from guardrails.decision_log.keys import PersonKey, ServiceKey
from guardrails.decision_log.store import Log
from guardrails.decision_log.texts import commitments
from guardrails.decision_log.verify import Verification, verify_log
from guardrails.decisions import Draft, Intention, Receipt
from guardrails.gate import Gate, MeasurementOrder, Submission
from guardrails.ledger import project
from guardrails.ledger.erasure import digest_of_list
from guardrails.ledger.judging import recomputer
from guardrails.ledger.people import SERVICES
from guardrails.ledger.requests import WORKSPACE
from guardrails.ledger.rows import ModelRow, ProposalRow, RequestRow
from guardrails.ledger.subjects import subjects_of
from guardrails.policy import parse_policy, source_digest
from guardrails.records import (
    Action,
    Commitment,
    Compute,
    Key,
    Measurements,
    ModelKind,
    Person,
    PolicySource,
    Role,
    Roster,
    Series,
    Surface,
    open_text,
)
from guardrails.registry import ArtifactStore
from guardrails.view import view_of

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
VIEWED = ("findings", "provenance", "samples")
SECRET = b"s" * 32
MODEL = "toy"

POLICY = """\
apiVersion: interlock/v1
kind: Policy
metadata: {name: main, version: 1}
isolation: {minimum: strict}
defaults: {confidence: 0.95, minSamples: 20, onInconclusive: review, onError: block}
rules:
  - id: drift
    check: drift.output_kl
    params: {suite: control}
    require: {metric: kl_mean, bound: upper, op: "<", value: 0.15}
    severity: review
  - id: pii
    check: data.pii
    require: {metric: share, op: "==", value: 0}
    severity: block
  - id: weights
    check: integrity.weights
    require: {metric: violations, op: "==", value: 0}
    severity: block
    waivable: false
  - id: gain
    check: gain.task
    params: {suite: task}
    require: {metric: delta, bound: lower, op: ">", value: 0}
    severity: review
budgets: {errorBudget: {alpha: 0.05}}
approval:
  onEligible: {quorum: 1, roles: [operator]}
  onReview: {quorum: 2, roles: [operator, safety], distinctRoles: true}
  onBlocked: never
  exclude: [proposer, data-author]
  coolDown: 0m
  expiresAfter: 72h
rollback: {quorum: 1, roles: [operator, safety]}
halt: {quorum: 1, roles: [operator, safety, auditor]}
resume: {quorum: 1, roles: [operator]}
activation:
  tighten: {quorum: 1, roles: [operator, author]}
  loosen: {quorum: 2, roles: [operator, author, safety]}
waiver: {quorum: 2, roles: [operator, safety]}
"""


def policy(text: str = POLICY, name: str = "main", **changes: str) -> PolicySource:
    """A policy from YAML text. Each change replaces the line that begins with its key.

    ``policy(coolDown="30m")`` changes the line ``  coolDown: …``, wherever it stands.
    """
    lines = text.replace("name: main", f"name: {name}").splitlines()
    for key, value in changes.items():
        found = [i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        assert len(found) == 1, f"{key} stands on {len(found)} lines"
        indent = lines[found[0]][: len(lines[found[0]]) - len(lines[found[0]].lstrip())]
        lines[found[0]] = f"{indent}{key}: {value}"
    files = {f"{name}.yaml": "\n".join(lines) + "\n"}
    source = PolicySource(name, source_digest(files), tuple(files), files)
    parse_policy(source)
    return source


# --- measurements --------------------------------------------------------------------------


def measurements(
    *, kl: float = 0.01, saved: float = 0.05, items: int = 40, facts: Mapping[str, str] | None = None
) -> Measurements:
    """What a measurement of a language model yields: drift on ``control``, gain on ``task``.

    ``kl`` is the mean divergence, ``saved`` the bits per byte saved on the task.
    """
    names = tuple(f"item-{i}" for i in range(items))
    wobble = [1.0 + 0.01 * (i % 5 - 2) for i in range(items)]
    size = (100.0,) * items
    champion = tuple(70.0 * w for w in wobble)
    drift = tuple(max(kl, 0.0) * w for w in wobble)
    better = tuple(nll - saved * 69.314718 * w for nll, w in zip(champion, wobble, strict=True))
    control = {"kl_mean": drift, "kl_original_mean": drift, "bytes": size, "nll_candidate": champion}
    task = {"kl_mean": drift, "kl_original_mean": drift, "bytes": size, "nll_candidate": better}
    established = {
        "integrity.safetensors_only": "true",
        "integrity.finite": "true",
        "integrity.same_architecture": "true",
        "integrity.same_tokenizer": "true",
        "data.records": "100",
        "data.pii": "0",
    }
    return Measurements(
        series=(
            Series("distribution", "control", names, {**control, "nll_champion": champion}),
            Series("distribution", "task", names, {**task, "nll_champion": champion}),
        ),
        facts={**established, **(facts or {})},
    )


PASSING = measurements()
"""Eligible under ``POLICY``."""
REVIEWABLE = measurements(kl=0.5)
"""Review: it drifts too far."""
INCONCLUSIVE = measurements(items=10)
"""Review: too few items."""
BLOCKED = measurements(facts={"data.pii": "3"})
"""Blocked by a rule that a waiver can turn into review."""
BROKEN = measurements(facts={"integrity.finite": "false"})
"""Blocked by a rule that nothing can waive."""
UNMEASURED = Measurements(series=(), facts={})
"""Blocked: nothing was measured."""


# --- people and time -----------------------------------------------------------------------


class Clock:
    """Time that passes a microsecond a look, and otherwise when told to."""

    def __init__(self, start: datetime = START) -> None:
        self.time = start

    def __call__(self) -> datetime:
        self.time += timedelta(microseconds=1)
        return self.time

    def pass_(self, **duration: float) -> None:
        """Let time go by (negative: turn the clock back)."""
        self.time += timedelta(**duration)

    @property
    def text(self) -> str:
        """The time now, as records write it."""
        return format_time(self.time)


class Human:
    """One person: an id, the roles of the next roster, a key."""

    def __init__(self, name: str, *roles: Role) -> None:
        self.id = f"p-{name}"
        self.name = name
        self.roles = roles
        self.key = PersonKey.generate()
        self.opening = open_text(name)

    def entry(self, *, revoked: tuple[str, ...] = ()) -> Person:
        """This person as a roster lists them."""
        keys = (Key(self.key.public, self.key.public in revoked),)
        return Person(self.id, self.opening.commitment(), self.roles, keys)


ADA = ("ada", Role.OPERATOR, Role.ROOT)
BO = ("bo", Role.SAFETY)
CY = ("cy", Role.OPERATOR)
DI = ("di", Role.AUDITOR)
EVERYBODY = (ADA, BO, CY, DI)


def memory_folder() -> Path:
    """A new folder, in memory where there is such a place: there flushing to disk costs nothing."""
    memory = Path("/dev/shm")
    there = memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="interlock-", dir=memory if there else None))


class Site:
    """A set-up workspace: a roster, one policy in force, one model adopted."""

    def __init__(
        self, folder: Path, people: tuple[tuple[Any, ...], ...] = EVERYBODY, source: PolicySource | None = None,
        *, origin: str = "interlock/test", set_up: bool = True, url: str = "",
    ) -> None:  # fmt: skip
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock()
        self.services = {name: ServiceKey.generate() for name in SERVICES}
        self.store = ArtifactStore(folder / "artifacts")
        self.url = url or f"sqlite:///{folder / 'log.db'}"
        Log.create(self.url, origin, self.services["log"], project).close()
        self.gate = self.open()
        self.people = {name: Human(name, *roles) for name, *roles in people}
        self.version = 0
        self._contents = itertools.count()
        if set_up:
            self.found()
            self.activate(source or policy())
            self.adopt()

    # --- parts ---------------------------------------------------------------------------

    @property
    def log(self) -> Log:
        """The log behind the gate."""
        return self.gate.log

    def open(self, projection: Callable[..., None] = project) -> Gate:
        """Another gate on the same workspace, as another process would open it."""
        log = Log.open(self.url, self.services["log"], projection)
        return Gate(log, self.store, self.services, SECRET, self.clock)

    def close(self) -> None:
        """Give back files."""
        self.log.close()

    # --- set-up --------------------------------------------------------------------------

    def roster(self, *, revoked: tuple[str, ...] = (), threshold: int = 1) -> Roster:
        """The next roster, of the people as they are now."""
        people = tuple(person.entry(revoked=revoked) for person in self.people.values())
        public = {name: key.public_base64 for name, key in self.services.items()}
        return Roster(self.version + 1, people, public, threshold)

    def found(self) -> None:
        """Record the first roster."""
        self.enrol()

    def enrol(self, *, revoked: tuple[str, ...] = (), signer: str = "") -> Reference:
        """Record the next roster, signed by a root (the first there is, unless named)."""
        roots = [person for person in self.people.values() if Role.ROOT in person.roles]
        root = self.people[signer] if signer else roots[0]
        names = [person.opening for person in self.people.values()]
        reference = self.gate.record_roster(self.roster(revoked=revoked), root.key, names)
        self.version += 1
        return reference

    def activate(self, source: PolicySource, *who: str) -> list[Receipt]:
        """Put a policy in force, signed by each of the named people (by default as many as it takes)."""
        receipts = []
        for name in who or self._signers():
            receipts.append(self.decide(name, Action.ACTIVATE, source.name, policy=source))
            if receipts[-1].state == "done":
                break
        return receipts

    def adopt(self, name: str = MODEL, content: str = "base", labels: dict[str, str] | None = None) -> Digest:
        """Take a base model as the first champion."""
        bundle = self.bundle(content)
        root = next(n for n, person in self.people.items() if Role.ROOT in person.roles)
        self.decide(
            root, Action.ADOPT, name, role=Role.ROOT, digest=bundle, kind=ModelKind.LLM, labels=labels or {}
        )
        return bundle

    def bundle(self, content: str) -> Digest:
        """A small real directory in the store."""
        folder = self.folder / "bundles" / canonical.digest(content.encode()).short
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "model.safetensors").write_bytes(content.encode() * 20)
        (folder / "proposal.json").write_text(f'{{"intent": "{content}"}}', encoding="utf-8")
        return self.store.put_tree(folder)

    # --- the line ------------------------------------------------------------------------

    def propose(self, content: str = "", *, model: str = MODEL, **fields: Any) -> str:
        """Record a proposal; its content is fresh unless given."""
        content = content or f"candidate {next(self._contents)}"
        return self.gate.record_proposal(self.submission(content, model=model, **fields))

    def submission(self, content: str, *, model: str = MODEL, **fields: Any) -> Submission:
        """What the loop would submit after training ``content`` from the present champion."""
        values = {
            "model": model, "technique": "self_supervised", "intent": f"make {content}",
            "bundle": self.bundle(content), "champion": self.model(model).champion,
            "data": canonical.digest(b"data"), "objective": canonical.digest(b"objective"),
            "recipe": {"steps": "10"}, "seed": 1, "environment": {"python": "3"}, "isolation": "strict",
            "submitted": False, "compute": Compute(1.0, 1.0, 1000, 1000, "test"), "proposer": "loop",
        }  # fmt: skip
        return Submission(**{**values, **fields})

    def measure(self, proposal: str, measured: Measurements = PASSING) -> MeasurementOrder:
        """Record evidence for a proposal, without judging it."""
        order = self.gate.begin_measurement(proposal)
        self.hand_in(order, measured)
        return order

    def hand_in(
        self, order: MeasurementOrder, measured: Measurements = PASSING, *, cpu_s: float = 1.0
    ) -> None:
        """Record what a measurement yielded."""
        data = canonical.encode(encode_record(measured))
        self.gate.record_evidence(
            order, data, "evaluator-1", "strict", Compute(1.0, float(cpu_s), 1, 1, "test")
        )

    def judged(self, measured: Measurements = PASSING, content: str = "", **fields: Any) -> str:
        """A proposal that was measured and judged."""
        proposal = self.propose(content, **fields)
        self.measure(proposal, measured)
        self.gate.judge(proposal)
        return proposal

    def promoted(self, content: str = "", **fields: Any) -> str:
        """A proposal that has become champion."""
        proposal = self.judged(PASSING, content, **fields)
        assert self.approve("ada", proposal).state == "promoted"
        return proposal

    # --- decisions -----------------------------------------------------------------------

    def wish(
        self, who: str, action: Action, target: str, role: Role | None = None, **fields: Any
    ) -> Intention:
        """What a person wants."""
        person = self.people[who]
        values = {"reason": f"{who} says {action}", "surface": Surface.CLI, "viewed": VIEWED, **fields}
        return Intention(action, target, person.id, role or person.roles[0], **values)

    def draft(self, who: str, action: Action, target: str, role: Role | None = None, **fields: Any) -> Draft:
        """What a person is about to sign."""
        return self.gate.draft(self.wish(who, action, target, role, **fields))

    def decide(
        self, who: str, action: Action, target: str, role: Role | None = None, **fields: Any
    ) -> Receipt:
        """Prepare, sign and commit a decision."""
        return self.gate.commit(self.draft(who, action, target, role, **fields), self.people[who].key)

    def approve(self, who: str, proposal: str, **fields: Any) -> Receipt:
        """Approve a proposal."""
        return self.decide(who, Action.APPROVE, proposal, **fields)

    def rollback(self, who: str, digest: Digest, model: str = MODEL) -> Receipt:
        """Ask for a rollback."""
        return self.decide(who, Action.ROLLBACK, model, digest=digest)

    # --- looking -------------------------------------------------------------------------

    def request(self, request: str) -> RequestRow:
        """What the log says of a request."""
        with view_of(self.log) as view:
            return view.request(request)

    def row(self, proposal: str) -> ProposalRow:
        """What the tables say of a proposal."""
        with view_of(self.log) as view:
            return view.proposal(proposal)

    def state(self, proposal: str) -> str:
        """Where a proposal stands."""
        return self.row(proposal).state.value

    def model(self, name: str = MODEL) -> ModelRow:
        """What the tables say of a model."""
        with view_of(self.log) as view:
            return view.model(name)

    def requests(self) -> list[RequestRow]:
        """All requests."""
        with view_of(self.log) as view:
            return view.requests()

    def kinds(self) -> list[str]:
        """The kinds of all records, in order."""
        with self.log.read() as snapshot:
            return [entry.statement.record for entry in snapshot.entries()]

    def verify(self, **options: Any) -> Verification:
        """Verify the whole log, with artifacts and verdicts, unless options say otherwise."""
        return verify(self.url, self.store, **options)

    # --- an attacker's means -------------------------------------------------------------

    def sealed(self, record: Any, signer: Any, *, kind: str = "", time: str = "") -> bytes:
        """An envelope around any record, signed by any key: what the gate would not make."""
        body = encode_record(record)
        with self.log.read() as snapshot:
            about = subjects_of(snapshot.tables, record) or {
                "thing": canonical.digest(canonical.encode(body))
            }
        statement = Statement(kind or type(record).__name__.lower(), about, body, self.log.origin,
                              time or format_time(self.clock()), ())  # fmt: skip
        return seal(statement.encode(), signer)

    def inject(self, *envelopes: bytes, projection: Callable[..., None] = project) -> None:
        """Append envelopes past the gate, with the log's own key."""
        careless = Log.open(self.url, self.services["log"], projection, prove=False)
        with careless as log, log.transaction() as tx:
            for envelope in envelopes:
                tx.append(envelope)

    # --- inside --------------------------------------------------------------------------

    def _signers(self) -> list[str]:
        allowed = {Role.OPERATOR, Role.SAFETY, Role.AUTHOR}
        return [name for name, person in self.people.items() if allowed & set(person.roles)]


def verify(url: str, store: ArtifactStore, **options: Any) -> Verification:
    """Verify a log as an auditor does: opened for reading, without any key."""
    options = {
        "artifacts": store.verify, "statements": store.get_bytes, "recompute": recomputer(store), **options,
    }  # fmt: skip
    with Log.open(url) as log, log.read() as snapshot:
        return verify_log(snapshot, project, **options)


def halt(site: Site, who: str = "di") -> Receipt:
    """Somebody halts the workspace."""
    return site.decide(who, Action.HALT, WORKSPACE)


def resume(site: Site, who: str = "ada") -> Receipt:
    """Somebody lifts the halt."""
    return site.decide(who, Action.RESUME, WORKSPACE)


def texts_of(site: Site, record: str, action: str = "") -> tuple[Commitment, ...]:
    """The commitments of the last record of a kind."""
    with site.log.read() as snapshot:
        bodies = [
            entry.statement.body for entry in snapshot.entries()
            if entry.statement.record == record and entry.statement.body.get("action", "") == action
        ]  # fmt: skip
    return tuple(sorted(commitments(bodies[-1]), key=lambda item: item.sha256))


def erase(site: Site, chosen: tuple[Commitment, ...], who: str = "ada", **changes: Any) -> Receipt:
    """Somebody erases texts, in the role of a root unless ``changes`` say otherwise."""
    fields = {"role": Role.ROOT, "digest": digest_of_list(chosen), "erase": chosen, **changes}
    return site.decide(who, Action.ERASE, WORKSPACE, **fields)


def age(site: Site, *, hours: float = 48) -> None:
    """Make every file of the store look that old."""
    past = time.time() - hours * 3600
    for path in site.store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (past, past))
