"""Looking at proposals: what there is, why it got its verdict, what it writes.

Invariants: nothing here changes anything or needs a key; ``show`` and ``explain`` end with 0 whatever the
verdict, ``verdict`` with 4 (blocked) or 5 (review).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import DeniedError, InterlockError, UnknownNameError
from guardrails.records import Outcome, State, Verdict, VerdictKind
from ui import presenters
from ui.cli import comparison, drawing, flagged
from ui.cli.group import command
from ui.cli.label import open_counts
from ui.cli.output import empty, heading, line, show, table
from ui.cli.session import Finished, Session
from ui.presenters import labelling

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.ledger.rows import PolicyRow, ProposalRow
    from guardrails.policy import Policy
    from guardrails.view import View

STATUS = {VerdictKind.ELIGIBLE: 0, VerdictKind.BLOCKED: 4, VerdictKind.REVIEW: 5}
"""The exit status that says a verdict."""


@command("list", help="List proposals, newest first.")
@click.option("--model", default="", metavar="NAME", help="Only proposals of this model.")
@click.option("--state", type=click.Choice([s.value for s in State]), help="Only proposals in this state.")
@click.option("--requests", is_flag=True, help="List requests (rollbacks, halts, policies, waivers) instead.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
def list_(session: Session, model: str, state: str | None, requests: bool, limit: int | None) -> None:
    """List proposals, newest first."""
    if requests:
        _list_requests(session, limit)
        return
    now = session.now()
    with session.view() as view:
        if model:
            view.model(model)
        rows = [row for row in view.proposals(model) if state in (None, row.state.value)][:limit]
        whys = [next_step(view, row, now) for row in rows]
        open_requests = sum(view.request_state(request, now) == "open" for request in view.requests())
        in_force, halted = view.policies(), _halted(view, now)

    waiting = labelling.waiting(open_counts(session))

    def draw(console: Console) -> None:
        if halted:
            console.print(line(presenters.Mark("✕", halted, "bad")), soft_wrap=True)
        if not rows:
            what = "No proposal matches." if model or state else "No proposals yet."
            empty(console, what, "interlock propose MODEL, or interlock loop run")
        else:
            cells = [
                (
                    row.id, row.model, row.technique, drawing.marked_state(row), presenters.one_line(why, 240),
                    presenters.age(row.created_at, now),
                )
                for row, why in zip(rows, whys, strict=True)
            ]  # fmt: skip
            console.print(
                table(
                    ("ID", "Model", "Technique", "State", "Why, and what next", "Age"), cells, right=("Age",)
                )
            )
        if open_requests:
            console.print(
                line(f"{presenters.counted(open_requests, 'open request')}: interlock list --requests")
            )
        if waiting:
            console.print(line(f"{waiting}: interlock label"))
        if told := told_apart(session, in_force):
            console.print(line(presenters.Mark("▲", told, "caution")), soft_wrap=True)

    session.output.result("list", [presenters.proposal_fields(row) for row in rows], draw)


def _halted(view: View, now: str) -> str:
    """Who halted everything, when and why; empty where nobody did."""
    halt = view.halted_by
    if halt is None:
        return ""
    told = f"Halted by {halt.id}"
    if halt.votes:
        vote = halt.votes[-1]
        when, why = presenters.ago(vote.at, now), presenters.one_line(view.text(vote.reason), 200)
        told += f" of {presenters.one_line(view.name_of(vote.person), 60)}, {when}: “{why}”"
    return f"{told}; `interlock resume` lifts it"


def told_apart(session: Session, in_force: list[PolicyRow]) -> str:
    """One sentence on policy files that are not what is in force under their names; empty where there are none."""
    from guardrails.authoring.on_disk import apart, files_in

    files = [one.path for one in apart(in_force, files_in(session.workspace.policy_folders()))]
    if not files:
        return ""
    count = presenters.counted(len(files), "policy file")
    names = ", ".join(map(str, files[:3])) + (" …" if len(files) > 3 else "")
    return f"{count} not as in force: {names}; `interlock policy show` says what differs"


def _list_requests(session: Session, limit: int | None) -> None:
    now = session.now()
    with session.view() as view:
        rows = view.requests()[::-1][:limit]
        data = [drawing.request_data(view, row) for row in rows]

    def draw(console: Console) -> None:
        if not rows:
            empty(
                console,
                "No requests yet.",
                "interlock rollback, halt, policy activate or waiver add make one",
            )
            return
        cells = [
            (
                row.id, row.action.value, row.target, fields["state"],
                ", ".join(vote["name"] for vote in fields["votes"]), presenters.age(row.created_at, now),
            )
            for row, fields in zip(rows, data, strict=True)
        ]  # fmt: skip
        console.print(table(("ID", "Action", "Target", "State", "Signed by", "Age"), cells, right=("Age",)))

    session.output.result("list requests", data, draw)


def next_step(view: View, row: ProposalRow, now: str) -> str:
    """One sentence for a list: why it stands where it stands, and what is missing."""
    if row.state in (State.AWAITING_APPROVAL, State.APPROVED):
        try:
            standing = view.standing(row, now)
            missing = standing.tally.missing if standing else ""
        except DeniedError as error:
            missing = error.message
        wait = missing or "quorum complete; `interlock tick` promotes when it is due"
        if row.verdict and row.verdict.kind is VerdictKind.ELIGIBLE:
            return wait
        return f"{wait} · {presenters.brief(row.verdict)}"
    if row.verdict is not None and row.state in (State.BLOCKED, State.JUDGED):
        return presenters.brief(row.verdict)
    if row.state in (State.PROPOSED, State.STALE, State.EXPIRED):
        return f"{row.note} · measure it: interlock measure {row.id}".removeprefix(" · ")
    return presenters.ending(row, view.name_of, view.text)


@command("show", help="Show all that is known of a proposal (P-…) or a request (R-…).")
@click.argument("id_", metavar="ID")
def show_(session: Session, id_: str) -> None:
    """Show one proposal or request."""
    now = session.now()
    if id_.upper().startswith("R-"):
        with session.view() as view:
            request = view.request(id_.upper())
            data = drawing.request_data(view, request)
        session.output.result("show", data, lambda console: drawing.draw_request(console, data, now))
        return
    with session.view() as view:
        row = view.proposal(id_.upper())
        data = presenters.detail_fields(row, view.name_of, view.text)
        missing = next_step(view, row, now)
        data["next"] = missing
        policies = _texts(view)
        if row.verdict:
            data["shadows"] = presenters.verdict_fields(row.id, row.verdict, policies=policies)["shadows"]
    data["diff"] = comparison.compared(session, row)

    def draw(console: Console) -> None:
        drawing.draw_title(console, row, now)
        show(console, line(presenters.one_line(missing) or presenters.headline(row.verdict)))
        drawing.draw_outline(console, row, data, policies)
        drawing.draw_changes(console, data["changes"])
        if row.verdict:
            show(console, "", heading("Rules"), *unsound_files(session, row))
            drawing.draw_findings(console, row.verdict, policies)
        drawing.draw_votes(console, data["votes"], now)
        drawing.draw_remarks(console, data["remarks"], now)
        if row.proposal is not None:
            comparison.draw(console, data["diff"])
        show(console, "")
        drawing.draw_provenance(console, data)

    session.output.result("show", data, draw)


@command("explain", help="Say why a proposal got its verdict, rule by rule.")
@click.argument("id_", metavar="ID")
@click.option("--rule", default="", metavar="RULE", help="Only this rule, with all that is known of it.")
def explain(session: Session, id_: str, rule: str) -> None:
    """Explain a verdict."""
    from guardrails.authoring.remedy import remedy

    now = session.now()
    with session.view() as view:
        row = view.proposal(id_.upper())
        rationale = drawing.rationales(view, row) if row.verdict else {}
        policies = _texts(view)
    verdict = row.verdict
    if rule:
        known = [finding.rule for finding in verdict.findings] if verdict else []
        if rule not in known:
            hint = (
                f"its rules: {', '.join(known)}" if known else f"it is {row.state.value}: no rule was applied"
            )
            raise UnknownNameError(f"{row.id} has no finding of a rule {rule:.80}", hint=hint)
        assert verdict is not None  # noqa: S101 - it has findings
        verdict = dataclasses.replace(verdict, findings=tuple(f for f in verdict.findings if f.rule == rule))
    data = presenters.verdict_fields(row.id, verdict, row.state.value, policies)
    for fields, finding in zip(data["findings"], verdict.findings if verdict else (), strict=True):
        fields["rationale"] = rationale.get(fields["rule"], "")
        fields["to_pass"] = remedy(finding).text
    if verdict is None and row.note:
        data["summary"] = row.note

    def draw(console: Console) -> None:
        drawing.draw_title(console, row, now)
        if verdict is None:
            console.print(line(row.note or "Not judged yet."))
            if row.failure and row.failure.log_tail:
                show(console, "", heading("End of the job's log"), presenters.plain(row.failure.log_tail))
            return
        show(console, line(presenters.headline(row.verdict)), *unsound_files(session, row), "")
        if rule:
            drawing.draw_finding(console, verdict.findings[0], verdict.confidence, rationale.get(rule, ""))
        else:
            drawing.draw_findings(console, verdict, policies)
            drawing.draw_remedies(console, verdict)
            drawing.draw_basis(console, verdict)

    session.output.result("explain", data, draw)


@command("verdict", help="The verdict, as exit status too (0 eligible, 4 blocked, 5 review).")
@click.argument("id_", metavar="ID")
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What this policy would say; nothing is recorded.",
)
def verdict_(session: Session, id_: str, policy_file: Path | None) -> None:
    """Give the verdict."""
    now = session.now()
    with session.view() as view:
        row = view.proposal(id_.upper())
        verdict = _what_if(session, view, row, policy_file, now) if policy_file else row.verdict
        policies = _texts(view)
    if verdict is None:
        raise DeniedError(
            f"{row.id} is {row.state.value}: there is no verdict", hint=f"interlock measure {row.id}"
        )
    give_verdict(session, "verdict", row, verdict, policies, what_if=policy_file is not None)


def _texts(view: View) -> list[Policy]:
    """The policies in force as they were signed: shadow ones say by them what too few items mean."""
    from guardrails.ledger.in_force import policy_of

    return [policy_of(row.source) for row in view.policies()]


def _what_if(session: Session, view: View, row: ProposalRow, policy_file: Path, now: str) -> Verdict:
    from guardrails.ledger import judging
    from guardrails.policy import LoadedPolicy, load_policy
    from guardrails.policy.model import ENFORCE

    loaded = load_policy(policy_file)
    # The question is what its rules say; that a shadow policy binds nobody is known.
    loaded = LoadedPolicy(dataclasses.replace(loaded.policy, mode=ENFORCE), loaded.source)
    store = session.workspace.store
    measurements = judging.read_measurements(store, row)
    intact = row.proposal is not None and judging.is_intact(store, row.proposal.bundle)
    return judging.judge(view.snapshot.tables, row, measurements, now, intact=intact, policies=[loaded])


def unsound_files(session: Session, row: ProposalRow) -> list[str]:
    """Which property of its files a proposal lacks, where that is why it was not measured; empty otherwise."""
    from guardrails.ledger.judging import read_measurements

    findings = row.verdict.findings if row.verdict else ()
    if not any(f.check.startswith("integrity.") and f.outcome is Outcome.FAIL for f in findings):
        return []
    try:
        said = presenters.unsound(findings, read_measurements(session.workspace.store, row).facts)
    except InterlockError as error:
        said = f"Which property of its files it lacks cannot be read: {error.message}"
    return [said] if said else []


def give_verdict(
    session: Session,
    kind: str,
    row: ProposalRow,
    verdict: Verdict,
    policies: Sequence[Policy] = (),
    *,
    what_if: bool = False,
) -> None:
    """Show a verdict and end with its status."""
    data = presenters.verdict_fields(row.id, verdict, row.state.value, policies)
    data["recorded"] = not what_if

    def draw(console: Console) -> None:
        note = "what this policy would say; nothing was recorded" if what_if else ""
        console.print(line(row.id, presenters.verdict_mark(verdict), note))
        show(console, line(presenters.headline(verdict)), "")
        drawing.draw_findings(console, verdict, policies)
        drawing.draw_basis(console, verdict)

    session.output.result(kind, data, draw)
    if STATUS[verdict.kind]:
        raise Finished(STATUS[verdict.kind])


@command(
    "samples",
    help="What champion and candidate wrote for the same prompts; or the records that checks flagged.",
)
@click.argument("id_", metavar="ID")
@click.option(
    "--flagged",
    "check",
    is_flag=False,
    flag_value=flagged.ALL,
    metavar="[CHECK]",
    help="Instead: the training records that this data check flagged, or all of them did.",
)
@click.option(
    "--from", "start", type=click.IntRange(min=1), default=1, help="With --flagged: from this one on."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=flagged.AT_ONCE,
    show_default=True,
    help="With --flagged: at most so many of each check.",
)
@click.option(
    "--unmasked",
    is_flag=True,
    help="With --flagged: show personal data and secrets that stand in the records too.",
)
def samples(session: Session, id_: str, check: str | None, start: int, limit: int, unmasked: bool) -> None:
    """Show samples, or flagged records."""
    from guardrails.ledger.judging import read_measurements

    with session.view() as view:
        row = view.proposal(id_.upper())
    if check is not None:
        flagged.show_flagged(session, row, check, start, limit, unmasked)
        return
    found = read_measurements(session.workspace.store, row).samples
    data: dict[str, Any] = {"id": row.id, "samples": [presenters.sample_fields(sample) for sample in found]}

    def draw(console: Console) -> None:
        if not found:
            empty(
                console,
                f"{row.id} was measured without samples.",
                "set `samples` in interlock.toml, measure again",
            )
        drawing.draw_samples(console, found)

    session.output.result("samples", data, draw)
