"""Where a proposal comes from: digests, seeds, versions, resources, and the signed records themselves."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from guardrails.canonical import Digest
from guardrails.checks.control import recipe_digest
from guardrails.ledger.rows import ProposalRow
from guardrails.records import Compute
from guardrails.view import View
from ui.console import markup
from ui.console.markup import Html, el
from ui.presenters import duration, one_line, size


def show(view: View, row: ProposalRow) -> None:
    """The provenance tab."""
    assert row.proposal is not None  # noqa: S101 - tabs exist for proposals only
    proposal, evidence, verdict = row.proposal, row.evidence, row.verdict
    left, right = st.columns(2, gap="large")
    with left:
        markup.show(markup.eyebrow("Made from"))
        markup.show(markup.facts([
            ("bundle", _whole(proposal.bundle)), ("champion", _whole(proposal.champion)),
            ("data", _whole(proposal.data)), *_authors(view, row), ("objective", _whole(proposal.objective)),
            *([] if proposal.submitted else [("recipe", _whole(recipe_digest(proposal)))]),
            ("seed", str(proposal.seed)), ("isolation", proposal.isolation),
            ("trained", "elsewhere, submitted" if proposal.submitted else "here, supervised"),
            *_compute(proposal.compute),
        ]))  # fmt: skip
        markup.show(markup.eyebrow("Recipe"))
        markup.show(_pairs(proposal.recipe.items()))
    with right:
        markup.show(markup.eyebrow("Measured"))
        if evidence is None:
            markup.show(el("p", "Not measured yet.", cls="soft"))
        else:
            counts = ", ".join(f"{name} {count}" for name, count in sorted(evidence.counts.items()))
            markup.show(markup.facts([
                ("measurements", _whole(evidence.measurements)), ("items", one_line(counts)),
                ("drawn by nonce", el("span", evidence.nonce[:24] + "…", cls="mono", title=evidence.nonce)),
                ("evaluator", el("span", evidence.evaluator, cls="mono")), ("isolation", evidence.isolation),
                *_compute(evidence.compute),
            ]))  # fmt: skip
        if verdict is not None:
            markup.show(markup.eyebrow("Judged"))
            policies = [(name, el("span", digest, cls="mono")) for name, digest in verdict.policies.items()]
            markup.show(markup.facts([
                ("engine", verdict.engine), ("attempt", str(verdict.attempt)),
                ("confidence", f"{100 * verdict.confidence:.4g} %"), *policies,
            ]))  # fmt: skip
        markup.show(markup.eyebrow("Environment"))
        markup.show(_pairs(proposal.environment.items()))
    markup.show(markup.eyebrow("Records in the decision log", "each signed, each a leaf of the tree"))
    markup.show(markup.table(("Record", "Position", "Leaf", "Signed by"), _records(view, row)))


def _records(view: View, row: ProposalRow) -> list[tuple[str, ...]]:
    positions = [("proposal", row.proposal_seq), ("evidence", row.evidence_seq), ("verdict", row.verdict_seq)]
    positions += [
        (f"{vote.action.value}, {one_line(view.name_of(vote.person), 60)}", vote.seq) for vote in row.votes
    ]
    rows: list[tuple[str, ...]] = []
    for name, seq in positions:
        if seq >= 0:
            entry = view.snapshot.entry(seq)
            signers = ", ".join(signature.keyid for signature in entry.signatures)
            leaf = el("span", entry.leaf[:24] + "…", cls="mono", title=entry.leaf)
            rows.append((name, str(seq), leaf, el("span", signers[:32] + "…", cls="mono", title=signers)))
    return rows


def _authors(view: View, row: ProposalRow) -> list[tuple[str, str]]:
    """Whose answers it was trained on, where there were any."""
    authors = row.proposal.authors if row.proposal else ()
    return (
        [("answered by", ", ".join(one_line(view.name_of(author), 60) for author in authors))]
        if authors
        else []
    )


def _whole(digest: Digest) -> Html:
    return el("span", str(digest), cls="mono")


def _pairs(items: Iterable[tuple[str, str]]) -> Html:
    rows = [(name, el("span", value, cls="mono")) for name, value in sorted(items)]
    return markup.facts(rows) if rows else el("p", "Nothing was set.", cls="soft")


def _compute(compute: Compute) -> list[tuple[str, str]]:
    return [
        ("time", f"{duration(compute.wall_s)} wall, {duration(compute.cpu_s)} CPU ({compute.measured_by})"),
        ("memory, disk", f"{size(compute.memory_bytes)}, {size(compute.disk_bytes)}"),
    ]
