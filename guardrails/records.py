"""What flows through the gate: frozen records, one word for each thing.

    Proposal ─> Evidence ─> Verdict ─> Decision ─> Promotion ─> (Rollback)

Invariants:
- Records are immutable, and hold digests instead of the things themselves.
- Measured numbers are floats here and decimal strings in bytes (``guardrails.codec``).
- Names and free text of people appear only as salted commitments (``Commitment``); what opens
  them lies beside the log and can be erased without breaking it.
- Evidence has no opinion; findings have one; only people make decisions.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from guardrails.canonical import Digest
from guardrails.errors import RecordError


class ModelKind(StrEnum):
    """What a model produces: text (LLM) or actions in an environment (LAM)."""

    LLM = "llm"
    LAM = "lam"


class Outcome(StrEnum):
    """What one rule came to. ``SKIPPED``: its ``when`` is false for this proposal."""

    PASS = "pass"  # noqa: S105 - a word of the policy grammar, not a secret
    SKIPPED = "skipped"
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Severity(StrEnum):
    """What a failed rule means for the verdict."""

    WARN = "warn"
    REVIEW = "review"
    BLOCK = "block"


class VerdictKind(StrEnum):
    """What the guardrails came to. Ordered by how bad it is: eligible < review < blocked."""

    ELIGIBLE = "eligible"
    REVIEW = "review"
    BLOCKED = "blocked"


class State(StrEnum):
    """Where a proposal stands; the only words that ``list`` prints."""

    PROPOSED = "proposed"
    MEASURING = "measuring"
    JUDGED = "judged"
    AWAITING_APPROVAL = "awaiting_approval"
    BLOCKED = "blocked"
    APPROVED = "approved"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    FAILED = "failed"
    STALE = "stale"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"


class Action(StrEnum):
    """What a person can decide. Each is signed by that person's key."""

    APPROVE = "approve"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    COMMENT = "comment"
    REQUEST_CHANGES = "request-changes"
    ROLLBACK = "rollback"
    HALT = "halt"
    RESUME = "resume"
    WAIVE = "waive"
    REVOKE = "revoke"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    ADOPT = "adopt"
    SET_CLOCK = "set-clock"
    ERASE = "erase"


class Role(StrEnum):
    """What a person may do; a person can hold several."""

    OPERATOR = "operator"
    SAFETY = "safety"
    AUTHOR = "author"
    AUDITOR = "auditor"
    ROOT = "root"


class Surface(StrEnum):
    """Where a person was when they signed."""

    CONSOLE = "console"
    CLI = "cli"
    OFFLINE = "offline"


# --- personal data -------------------------------------------------------------------------


@dataclass(frozen=True)
class Commitment:
    """SHA-256 of a 16-byte salt and a text: binds the text without containing it."""

    sha256: str


@dataclass(frozen=True)
class Opening:
    """What opens a commitment. Stored beside the log; erasing it keeps the tree whole."""

    salt: str
    text: str

    def commitment(self) -> Commitment:
        """The commitment that this opens."""
        data = bytes.fromhex(self.salt) + self.text.encode("utf-8")
        return Commitment(hashlib.sha256(data).hexdigest())


def open_text(text: str) -> Opening:
    """A fresh opening (random salt) for a text."""
    return Opening(secrets.token_hex(16), text)


# --- proposal ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compute:
    """Resources as the supervisor measured them, never as the job reports them.

    Seconds of wall clock and of CPU over all processes; peak bytes of memory and of disk;
    ``measured_by`` names the means (``cgroup`` or ``watchdog``).
    """

    wall_s: float
    cpu_s: float
    memory_bytes: int
    disk_bytes: int
    measured_by: str


@dataclass(frozen=True)
class Proposal:
    """One proposed update, and everything that it was made from, by digest.

    ``champion`` is the model it was trained from. ``technique`` is ``submitted`` where it was
    trained elsewhere. ``proposer`` is ``loop`` or a person's id. ``isolation`` is the level the
    job really ran at (``none`` for a submission that Interlock did not run: see ``submitted``).
    ``generated`` are those files of its training data with records that a model wrote, by their own mark.
    ``authors`` are the ids of the people whose answers to its ``asker`` it was trained on.
    """

    id: str
    model: str
    kind: ModelKind
    technique: str
    intent: Commitment
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
    generated: tuple[Digest, ...] | None = None
    authors: tuple[str, ...] = ()

    @property
    def asker(self) -> str:
        """Whose questions people answered for it; derived, so that no record can leave it out."""
        return asker_of(self.technique, self.recipe)


def asker_of(technique: str, recipe: Mapping[str, str]) -> str:
    """Whose questions a recipe asks: its technique, and its method where it names one."""
    method = recipe.get("method", "")
    return f"{technique}/{method}" if method else technique


@dataclass(frozen=True)
class Failure:
    """A job that ended without a proposal or without evidence, and why."""

    id: str
    model: str
    stage: str
    technique: str
    reason: str
    log_tail: str
    compute: Compute | None = None


# --- evidence ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """Per-item numbers that one probe measured on one suite: a small table.

    ``items`` names the rows (a content address or an index, never the text itself);
    every column has one number per row. Units belong to the probe's definition.
    """

    probe: str
    suite: str
    items: tuple[str, ...]
    columns: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if len(column) != len(self.items):
                raise RecordError(
                    f"series {self.probe}/{self.suite}: column {name} has {len(column)} numbers "
                    f"for {len(self.items)} items"
                )


@dataclass(frozen=True)
class Sample:
    """What champion and candidate produced for one prompt, for people to read as plain text."""

    suite: str
    prompt: str
    champion: str
    candidate: str


@dataclass(frozen=True)
class Measurements:
    """What a measurement job yields: numbers and samples, no opinion. Kept by digest.

    ``facts`` are exact values with no sampling in them (integrity, census of the data), written
    as text: ``true``/``false``, integers, decimals. ``flagged`` holds, per fact, the records that it
    counted, so that each can be opened; ``reasons`` holds, per fact and record, what was found in it.
    """

    series: tuple[Series, ...]
    facts: dict[str, str]
    samples: tuple[Sample, ...] = ()
    flagged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def find(self, probe: str, suite: str) -> Series | None:
        """The series of a probe on a suite, or None where it was not measured."""
        return next((s for s in self.series if s.probe == probe and s.suite == suite), None)


@dataclass(frozen=True)
class Evidence:
    """The signed record of one measurement: what was measured, of what, by what, on how many.

    ``measurements`` addresses the ``Measurements`` in the artifact store. ``counts`` gives the
    number of items by ``probe/suite``. The nonce drew the items; it was fixed by the log after the
    bundle was hashed. ``measurement`` is the record that opened this very measurement.
    """

    proposal: str
    bundle: Digest
    champion: Digest
    measurements: Digest
    counts: dict[str, int]
    evaluator: str
    nonce: str
    seed: int
    isolation: str
    compute: Compute
    measurement: Digest | None = None


# --- verdict -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One rule's outcome. ``source`` is ``file:line``; numbers are absent where none were measured.

    ``shadow``: the rule's policy is judged and logged but not binding; it does not count.
    """

    rule: str
    check: str
    outcome: Outcome
    severity: Severity
    limit: str
    source: str
    message: str
    metric: str = ""
    observed: float | None = None
    lower: float | None = None
    upper: float | None = None
    n: int | None = None
    waived: bool = False
    shadow: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the policies in force make of the evidence: the worst finding wins.

    ``policies`` maps each policy's name to the digest of its activated bytes. ``confidence`` is
    the one used after the error budget. ``attempt`` is k in alpha·6/(π²k²). ``checks`` maps each check that another
    distribution brought to that distribution's name, version and digest of code; absent where there is none.
    """

    proposal: str
    kind: VerdictKind
    policies: dict[str, str]
    evidence: Digest
    findings: tuple[Finding, ...]
    coverage: tuple[str, ...]
    confidence: float
    attempt: int
    engine: str
    checks: dict[str, str] | None = None


# --- people --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One public key of a person: OpenSSH text, and where it may sign."""

    public: str
    revoked: bool = False


@dataclass(frozen=True)
class Person:
    """One person in the roster. ``id`` is random; the name is committed to, not contained."""

    id: str
    name: Commitment
    roles: tuple[Role, ...]
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Predecessor:
    """The log that this one goes on from: its origin, and the newest checkpoint that was seen of it."""

    origin: str
    size: int
    root: str


@dataclass(frozen=True)
class Roster:
    """Who may decide what, and which service keys sign machine records. Signed by roots.

    ``services`` maps ``gate``, ``evaluator``, ``learner`` and ``log`` to an Ed25519 public key (base64, raw).
    ``threshold`` is how many roots a change needs. ``predecessor`` stands in a first roster only.
    """

    version: int
    people: tuple[Person, ...]
    services: dict[str, str]
    threshold: int = 1
    predecessor: Predecessor | None = None


@dataclass(frozen=True)
class Binding:
    """What a decision is about, to the byte: any change makes the decision void."""

    bundle: Digest
    champion: Digest
    evidence: Digest
    verdict: Digest
    policies: dict[str, str]
    roster: int


@dataclass(frozen=True)
class RequestTerms:
    """What stands beside the content of a request from its first signature on.

    From ``expires_at`` nobody can sign any more. A rollback names the ``champion`` that it leaves: if another
    one is in force, it is void. ``reign`` counts the champions that the model had had by then: one that left and
    came back is not the one that people saw. None in logs from before there was such a count.
    """

    expires_at: str
    champion: Digest | None = None
    reign: int | None = None


@dataclass(frozen=True)
class Decision:
    """What one person decided, why, on what, having seen what; signed by that person.

    ``target`` is a proposal id, a request id, a model name (rollback, adopt), a policy name, or
    ``workspace`` (halt, resume, set-clock, erase). ``request`` groups the signatures of one action that needs
    several; ``terms`` are that request's. ``expires_at``: from then on an approval counts no more.
    ``erase``: the commitments whose texts are to be erased.
    """

    action: Action
    target: str
    person: str
    role: Role
    reason: Commitment
    surface: Surface
    viewed: tuple[str, ...]
    roster: int
    request: str
    binding: Binding | None = None
    digest: Digest | None = None
    policy: PolicySource | None = None
    waiver: Waiver | None = None
    expires_at: str = ""
    kind: ModelKind | None = None
    labels: dict[str, str] = field(default_factory=dict)
    terms: RequestTerms | None = None
    erase: tuple[Commitment, ...] = ()


@dataclass(frozen=True)
class PolicySource:
    """The exact bytes of a policy and of every file that it extends, the policy itself first.

    ``files`` maps a file name to its UTF-8 text, in the order of ``order``.
    """

    name: str
    digest: Digest
    order: tuple[str, ...]
    files: dict[str, str]


@dataclass(frozen=True)
class Waiver:
    """A dated, owned exception for one rule and one bundle; the rule is still evaluated."""

    rule: str
    bundle: Digest
    owner: str
    expires_at: str

    def holds_at(self, moment: datetime) -> bool:
        """Whether it has not ended; one whose end is no time with an offset never holds."""
        try:
            end = datetime.fromisoformat(self.expires_at)
        except ValueError:
            return False
        return end.tzinfo is not None and moment < end


@dataclass(frozen=True)
class Answers:
    """What one person handed in to one asker's questions about a model; signed by that person.

    ``statement`` addresses what they said, in the artifact store (``guardrails.answers``); its text can be erased.
    ``answers`` counts all of it, ``skipped`` the questions that they closed without knowing.
    """

    model: str
    asker: str
    person: str
    statement: Digest
    answers: int
    skipped: int
    roster: int


@dataclass(frozen=True)
class Promotion:
    """The champion of a model moves to a proposal's bundle.

    ``rehearsed`` is what the way back came to: the digest of ``previous`` as it was restored beforehand.
    """

    proposal: str
    model: str
    bundle: Digest
    previous: Digest
    decisions: tuple[Digest, ...]
    sole_person: bool
    rehearsed: Digest | None = None


@dataclass(frozen=True)
class Rollback:
    """The champion of a model moves back to an earlier champion; descendants are quarantined."""

    request: str
    model: str
    bundle: Digest
    previous: Digest
    decisions: tuple[Digest, ...]
    quarantined: tuple[str, ...]
    sole_person: bool


@dataclass(frozen=True)
class Transition:
    """The gate notes that time or events changed a proposal: measuring, expired …

    ``attempt``: the step of the error budget that a measurement spends as it starts.
    """

    proposal: str
    state: State
    reason: str
    attempt: int | None = None


@dataclass(frozen=True)
class Removal:
    """The gate removed a proposal's bundle, because it was kept as long as the policies ask; evidence stays.

    ``days``: how long they asked for, when it was removed.
    """

    proposal: str
    bundle: Digest
    days: int


def is_finite(number: float | None) -> bool:
    """True for a real, finite number; None, NaN and infinities are not."""
    return number is not None and math.isfinite(number)
