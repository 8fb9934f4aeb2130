"""Rows as JSON fields of the command line's contract. Only finite numbers; what is not finite is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from guardrails.authoring.shadow import shadows_of
from guardrails.checks.control import recipe_digest
from guardrails.ledger.rows import ModelRow, PolicyRow, ProposalRow, RequestRow, Vote, WaiverRow
from guardrails.ledger.waivers import is_in_force
from guardrails.policy import Policy
from guardrails.records import (
    Compute,
    Finding,
    Sample,
    Verdict,
)
from ui.presenters.findings import headline, limit_value
from ui.presenters.policies import shadow_fields
from ui.presenters.texts import finite

Json = dict[str, Any]


def proposal_fields(row: ProposalRow) -> Json:
    """One element of ``list``."""
    proposal = row.proposal
    return {
        "id": row.id,
        "model": row.model,
        "technique": row.technique,
        "state": row.state.value,
        "verdict": row.verdict.kind.value if row.verdict else None,
        "bundle_digest": str(proposal.bundle) if proposal else None,
        "champion_digest": str(proposal.champion) if proposal else None,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "approvals": sum(vote.action.value == "approve" for vote in row.votes),
        "changes_requested": len(row.changes),
        "note": row.note,
    }


def finding_fields(finding: Finding) -> Json:
    """One element of ``findings``. ``limit`` is the number; ``condition`` the whole pass condition."""
    return {
        "rule": finding.rule,
        "check": finding.check,
        "metric": finding.metric,
        "outcome": finding.outcome.value,
        "severity": finding.severity.value,
        "observed": finite(finding.observed),
        "lower": finite(finding.lower),
        "upper": finite(finding.upper),
        "limit": limit_value(finding.limit),
        "condition": finding.limit,
        "n": finding.n,
        "waived": finding.waived,
        "source": finding.source,
        "message": finding.message,
        "shadow": finding.shadow,
    }


def verdict_fields(
    proposal_id: str, verdict: Verdict | None, state: str = "", policies: Iterable[Policy] = ()
) -> Json:
    """``verdict``, ``explain``, ``submit --wait`` and ``measure``. Without a verdict, no findings either."""
    shadows = shadows_of(verdict, policies) if verdict else []
    bound = dict(verdict.policies) if verdict else {}
    return {
        "id": proposal_id,
        "verdict": verdict.kind.value if verdict else None,
        "state": state,
        "policy": ", ".join(bound) or None,
        "policy_digest": ", ".join(bound.values()) or None,
        "policies": bound,
        "coverage": list(verdict.coverage) if verdict else [],
        "confidence": verdict.confidence if verdict else None,
        "attempt": verdict.attempt if verdict else None,
        "evidence_digest": str(verdict.evidence) if verdict else None,
        "engine": verdict.engine if verdict else None,
        "findings": [finding_fields(finding) for finding in verdict.findings] if verdict else [],
        "shadows": [shadow_fields(shadow, verdict.kind) for shadow in shadows] if verdict else [],
        "summary": headline(verdict),
    }


def model_fields(row: ModelRow) -> Json:
    """``model show``, and one element of ``model list``."""
    return {
        "name": row.name,
        "kind": row.kind,
        "champion_digest": str(row.champion),
        "original_digest": str(row.original),
        "labels": dict(row.labels),
        "attempts": row.attempts,
        "history": [
            {
                "digest": str(reign.digest),
                "promoted_at": reign.promoted_at,
                "proposal": reign.proposal or None,
                "quarantined": reign.quarantined,
            }
            for reign in row.history
        ],
    }


def vote_fields(vote: Vote, name: str, reason: str) -> Json:
    """One signature on a proposal or a request."""
    return {
        "action": vote.action.value,
        "person": vote.person,
        "name": name,
        "role": vote.role.value,
        "at": vote.at,
        "surface": vote.surface.value,
        "viewed": list(vote.viewed),
        "reason": reason,
        "expires_at": vote.expires_at or None,
        "record": str(vote.record),
        "seq": vote.seq,
    }


def request_fields(row: RequestRow, votes: Iterable[Json] = (), remarks: Iterable[Json] = ()) -> Json:
    """One action that people sign together."""
    fields: Json = {
        "id": row.id,
        "action": row.action.value,
        "target": row.target,
        "created_at": row.created_at,
        "done": row.done,
        "expires_at": row.terms.expires_at if row.terms else None,
        "champion_digest": str(row.terms.champion) if row.terms and row.terms.champion else None,
        "remarks": list(remarks),
        "digest": str(row.digest) if row.digest else None,
        "votes": list(votes),
    }
    if row.policy:
        fields["policy"] = {
            "name": row.policy.name,
            "digest": str(row.policy.digest),
            "files": list(row.policy.order),
        }
    if row.waiver:
        fields["waiver"] = {
            "rule": row.waiver.rule,
            "bundle": str(row.waiver.bundle),
            "owner": row.waiver.owner,
            "expires_at": row.waiver.expires_at,
        }
    return fields


def waiver_fields(row: WaiverRow, now: str) -> Json:
    """One element of ``waiver list``. ``in_force``: neither revoked nor over."""
    return {
        "id": row.id,
        "rule": row.waiver.rule,
        "bundle": str(row.waiver.bundle),
        "owner": row.waiver.owner,
        "granted_at": row.granted_at,
        "expires_at": row.waiver.expires_at,
        "revoked": row.revoked,
        "revoked_by": row.revoked_by or None,
        "in_force": is_in_force(row, now),
    }


def policy_fields(row: PolicyRow) -> Json:
    """One policy in force."""
    return {
        "name": row.name,
        "digest": str(row.source.digest),
        "files": list(row.source.order),
        "activated_at": row.activated_at,
        "request": row.request,
    }


def sample_fields(sample: Sample) -> Json:
    """One pair of outputs. The texts are as the models wrote them; show them through ``plain``."""
    return {
        "suite": sample.suite,
        "prompt": sample.prompt,
        "champion": sample.champion,
        "candidate": sample.candidate,
        "differs": sample.champion != sample.candidate,
    }


def compute_fields(compute: Compute) -> Json:
    """Resources, as the supervisor measured them."""
    return {
        "wall_s": round(compute.wall_s, 3),
        "cpu_s": round(compute.cpu_s, 3),
        "memory_bytes": compute.memory_bytes,
        "disk_bytes": compute.disk_bytes,
    }


def detail_fields(row: ProposalRow, name_of: Callable[[str], str], text_of: Callable[[Any], str]) -> Json:
    """``show``: everything that the log says of one proposal."""
    fields = proposal_fields(row)
    proposal, evidence, failure = row.proposal, row.evidence, row.failure
    if proposal:
        fields |= {
            "kind": proposal.kind.value,
            "intent": text_of(proposal.intent),
            "proposer": name_of(proposal.proposer),
            "authors": [name_of(author) for author in proposal.authors],
            "submitted": proposal.submitted,
            "data_digest": str(proposal.data),
            "objective_digest": str(proposal.objective),
            "recipe_digest": "" if proposal.submitted else str(recipe_digest(proposal)),
            "recipe": dict(proposal.recipe),
            "seed": proposal.seed,
            "environment": dict(proposal.environment),
            "isolation": proposal.isolation,
            "compute": compute_fields(proposal.compute),
            "record": str(row.proposal_record),
        }
    if evidence:
        fields["evidence"] = {
            "measurements": str(evidence.measurements),
            "counts": dict(evidence.counts),
            "evaluator": evidence.evaluator,
            "nonce": evidence.nonce,
            "seed": evidence.seed,
            "isolation": evidence.isolation,
            "champion_digest": str(evidence.champion),
            "compute": compute_fields(evidence.compute),
            "record": str(row.evidence_record),
        }
    if failure:
        fields["failure"] = {"stage": failure.stage, "reason": failure.reason, "log_tail": failure.log_tail}
    fields["summary"] = headline(row.verdict)
    told = {"votes": row.votes, "changes": row.changes, "remarks": row.remarks}
    for name, said in told.items():
        fields[name] = [vote_fields(vote, name_of(vote.person), text_of(vote.reason)) for vote in said]
    return fields


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Json]:
    """The keys whose values differ between two flat settings, sorted."""
    keys = sorted(set(before) | set(after))
    return [
        {"key": key, "before": before.get(key), "after": after.get(key)}
        for key in keys
        if before.get(key) != after.get(key)
    ]
