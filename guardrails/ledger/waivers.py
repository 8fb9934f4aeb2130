"""Waivers: dated, owned exceptions for one rule and one bundle. Pure.

Invariants:
- Which waivers a verdict may use is said in one place, ``granted_for`` with ``Waiver.holds_at``: the engine, the
  standing of a proposal, a what-if, the lists and the verifier that judges again all ask there.
- A waiver never makes a proposal eligible: its rule is evaluated all the same (``engine``), and from the moment
  that it ends the verdict is out of date, so nothing is promoted by it any more.
- What no quorum can waive is refused when the first person asks, not when the last one has signed.
"""

from __future__ import annotations

from guardrails.canonical import Digest
from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError, RecordError, UnknownNameError
from guardrails.ledger.in_force import policies_for, policy_of
from guardrails.ledger.people import find_person
from guardrails.ledger.rows import (
    ProposalRow,
    RequestRow,
    WaiverRow,
    read,
    read_all,
    require_model,
    require_roster,
)
from guardrails.records import Waiver


def granted_for(tables: Reader, bundle: Digest) -> list[Waiver]:
    """The waivers for a bundle that were granted and not revoked; ``Waiver.holds_at`` says until when."""
    rows = read_all(tables, WaiverRow)
    return [row.waiver for row in rows if not row.revoked and row.waiver.bundle == bundle]


def is_in_force(row: WaiverRow, now: str) -> bool:
    """Whether one granted waiver holds at a time."""
    return not row.revoked and row.waiver.holds_at(parse_time(now))


def waived_rules(tables: Reader, row: ProposalRow, now: str) -> tuple[str, ...]:
    """The rules that a waiver in force at a time speaks of, for this proposal's bundle."""
    if row.proposal is None:
        return ()
    moment = parse_time(now)
    found = granted_for(tables, row.proposal.bundle)
    return tuple(sorted({waiver.rule for waiver in found if waiver.holds_at(moment)}))


def require_waivable(tables: Reader, row: ProposalRow, rule: str) -> None:
    """Refuse a waiver that could change nothing: no such rule, or one that cannot be waived.

    Raises:
        UnknownNameError: no policy in force for this model has such a rule.
        DeniedError: a policy in force says ``waivable: false``.
    """
    policies = [policy_of(policy.source) for policy in policies_for(tables, require_model(tables, row.model))]
    judged = row.verdict.findings if row.verdict else ()
    known = {own.id for policy in policies for own in policy.rules} | {found.rule for found in judged}
    if rule not in known:
        raise UnknownNameError(
            f"{row.id} is not judged by a rule {rule:.80}", hint=f"its rules: {', '.join(sorted(known))}"
        )
    if not any(policy.rule(rule) for policy in policies):
        raise DeniedError(f"{rule} is a rule of the gate itself and cannot be waived")
    for policy in policies:
        own = policy.rule(rule)
        if own is not None and not own.waivable:
            raise DeniedError(f"rule {rule} cannot be waived", hint=f"{own.place}: waivable: false")


def check_waive(tables: Reader, request: RequestRow, time: str) -> None:
    """Refuse a request for a waiver that makes no sense now."""
    waiver = request.waiver
    if waiver is None:
        raise RecordError("waive: rule, bundle, owner and expiry are missing")
    if not waiver.rule or not waiver.owner:
        raise RecordError("waive: a waiver names a rule and an owner")
    parse_time(waiver.expires_at)
    rows = [
        row for row in read_all(tables, ProposalRow) if row.proposal and row.proposal.bundle == waiver.bundle
    ]
    if not rows:
        raise UnknownNameError(f"no proposal has the bundle {waiver.bundle.short}")
    if request.terms is None:
        return
    named = [row for row in rows if row.id == request.target]
    if not named:
        raise RecordError(f"waive: {request.target:.40} is no proposal with the bundle {waiver.bundle.short}")
    find_person(require_roster(tables), waiver.owner)
    require_waivable(tables, named[0], waiver.rule)
    if parse_time(waiver.expires_at) <= parse_time(time):
        raise DeniedError(f"the waiver would have ended at {waiver.expires_at}, before it begins")


def check_revoke(tables: Reader, request: RequestRow) -> None:
    """Refuse the end of a waiver that is not there."""
    row = read(tables, WaiverRow, request.target)
    if row is None:
        raise UnknownNameError(f"there is no waiver {request.target:.40}", hint="`interlock waiver list`")
    if row.revoked:
        raise DeniedError(f"waiver {row.id} was revoked already, by {row.revoked_by}")
