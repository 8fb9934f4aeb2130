"""How proposals, findings, samples and signatures look on a terminal. Draws only; asks for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guardrails.authoring.remedy import remedy
from guardrails.authoring.shadow import shadows_of
from guardrails.errors import InterlockError
from guardrails.records import Finding, Outcome, Sample, VerdictKind
from ui import presenters
from ui.cli.output import heading, line, marked, pairs, show, show_fitting, table
from ui.presenters import Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from guardrails.ledger.rows import ProposalRow, RequestRow
    from guardrails.policy import Policy
    from guardrails.records import Verdict
    from guardrails.view import View

_REQUEST_MARKS = {
    "open": presenters.Mark("▲", "open", "caution"),
    "done": presenters.Mark("✓", "done", "good"),
    **{word: presenters.Mark("·", word, "muted") for word in ("withdrawn", "rejected", "expired", "void")},
}
_SAMPLE_CHARS = 600


def marked_state(row: ProposalRow) -> Text:
    """The state, in the tone of its verdict where people still have to decide."""
    mark = presenters.STATE_MARKS[row.state]
    if row.state.value == "awaiting_approval" and row.verdict and row.verdict.kind is VerdictKind.ELIGIBLE:
        mark = presenters.Mark("✓", mark.word, "good")
    return marked(mark)


def draw_title(console: Console, row: ProposalRow, now: str) -> None:
    """Id, verdict, state, model, technique and age on one line."""
    state = presenters.STATE_MARKS[row.state].word
    mark = presenters.verdict_mark(row.verdict)
    parts = [heading(row.id), *([marked(mark)] if row.verdict else [])]
    since = presenters.age(row.created_at, now)
    rest = [state] if state != mark.word else []
    rest += [row.model, row.technique, since if since == "just now" else f"{since} old"]
    console.print(line(*parts, "· " + " · ".join(rest)))


def draw_outline(console: Console, row: ProposalRow, data: Json, policies: Iterable[Policy]) -> None:
    """What it is meant to do, and how much better than the champion it was measured to be."""
    items = [("intent", data["intent"])] if "intent" in data else []
    gain = presenters.gain_finding(row.verdict)
    if gain is not None and gain.observed is not None:
        unit = presenters.gain_unit(row, policies)
        seen = presenters.interval(gain.lower, gain.upper)
        items.append(("gain", f"{presenters.signed(gain.observed)} {unit} {seen}"))
    if items:
        console.print(pairs(items))


def draw_findings(console: Console, verdict: Verdict, policies: Iterable[Policy] = ()) -> None:
    """All binding rules, the worst first; how many do not apply; then what binds nobody."""
    ordered = presenters.worst_first(finding for finding in verdict.findings if not finding.shadow)
    applied = [finding for finding in ordered if finding.outcome is not Outcome.SKIPPED]
    skipped = [finding for finding in ordered if finding.outcome is Outcome.SKIPPED]
    rows = [
        (
            marked(presenters.finding_mark(f)),
            f.rule,
            presenters.amount(f, f.observed),
            presenters.interval(f.lower, f.upper),
            presenters.limit_of(f),
            "–" if f.n is None else f"{f.n:,}",
            f.severity.value,
            f.source,
        )
        for f in applied
    ]
    columns = ("Outcome", "Rule", "Observed", "Interval", "Limit", "n", "If it fails", "Policy line")
    show_fitting(console, columns, rows, right=("Observed", "n"), spare=2)
    for finding in applied:
        if finding.outcome is not Outcome.PASS:
            said = presenters.message_of(finding, 300)
            console.print(
                line(" ", presenters.finding_mark(finding), f"{finding.rule}: {said}"), soft_wrap=True
            )
    if skipped:
        does = presenters.counted(len(skipped), "rule does", "rules do")
        told = f"{does} not apply to this model; why: --json, or the console"
        console.print(line(presenters.Mark("·", told, "muted")))
    draw_shadows(console, verdict, policies)


def draw_shadows(console: Console, verdict: Verdict, policies: Iterable[Policy] = ()) -> None:
    """What each shadow policy would have made of it, and which of its rules did not pass."""
    for shadow in shadows_of(verdict, policies):
        show(
            console, "", heading(f"Shadow policy {shadow.policy}, not binding"),
            line(presenters.shadow_sentence(shadow, verdict.kind)),
        )  # fmt: skip
        for finding in presenters.worst_first(shadow.not_passed):
            told = presenters.finding_sentence(replace(finding, shadow=False), verdict.confidence)
            console.print(line(" ", presenters.finding_mark(finding), told), soft_wrap=True)


def draw_finding(console: Console, finding: Finding, confidence: float, rationale: str) -> None:
    """One rule with all that is known of it."""
    items: list[tuple[str, Any]] = [
        ("outcome", marked(presenters.finding_mark(finding))),
        ("check", f"{finding.check} · {finding.metric}" if finding.metric else finding.check),
        *([("unit", unit)] if (unit := presenters.unit_of(finding)) else []),
        (
            "observed",
            f"{presenters.amount(finding, finding.observed)} {presenters.interval(finding.lower, finding.upper)}",
        ),
        ("limit", presenters.limit_of(finding) or "–"),
        ("n", "–" if finding.n is None else f"{finding.n:,}"),
        ("confidence", f"{100 * confidence:.4g} %"),
        ("if it fails", finding.severity.value),
        ("policy line", finding.source or "–"),
        ("message", presenters.message_of(finding)),
    ]
    to_pass = remedy(finding).text
    if to_pass:
        items.append(("to pass", to_pass))
    if rationale:
        items.append(("rationale", rationale))
    console.print(pairs(items))


def draw_remedies(console: Console, verdict: Verdict) -> None:
    """What would have to change, for each rule that did not pass."""
    told = [(f.rule, remedy(f).text) for f in presenters.worst_first(verdict.findings) if not f.shadow]
    told = [(rule, text) for rule, text in told if text]
    if told:
        show(console, heading("What would have to change"), pairs(told))


def draw_basis(console: Console, verdict: Verdict) -> None:
    """What the verdict rests on."""
    policies = ", ".join(f"{name} {digest}" for name, digest in verdict.policies.items()) or "none"
    items = [
        ("policy", policies),
        ("coverage", ", ".join(verdict.coverage) or "nothing was measured"),
        (
            "confidence",
            f"{100 * verdict.confidence:.4g} %, attempt {verdict.attempt} since the last promotion",
        ),
        ("evidence", f"record {verdict.evidence}"),
        ("engine", verdict.engine),
    ]
    console.print("")
    console.print(pairs(items))


def draw_provenance(console: Console, data: Json) -> None:
    """Where a proposal comes from, by digest."""
    console.print(heading("Provenance"))
    if "intent" not in data:
        failure = data.get("failure") or {}
        console.print(
            pairs([("failed at", failure.get("stage", "–")), ("reason", failure.get("reason", data["note"]))])
        )
        if failure.get("log_tail"):
            show(console, heading("End of the job's log"), line(failure["log_tail"]))
        return
    compute = data["compute"]
    recipe = ", ".join(f"{key}={value}" for key, value in data["recipe"].items()) or "defaults"
    items = [
        ("proposer", data["proposer"] + (" (trained elsewhere, submitted)" if data["submitted"] else "")),
        ("recipe", f"{data['technique']}: {recipe}, seed {data['seed']}"),
        ("bundle", data["bundle_digest"]),
        ("trained from", data["champion_digest"]),
        ("training data", data["data_digest"]),
        *([("answered by", ", ".join(data["authors"]))] if data["authors"] else []),
        ("objective", data["objective_digest"]),
        ("recipe digest", data["recipe_digest"] or "trained elsewhere: not known"),
        ("isolation", data["isolation"]),
        (
            "compute",
            (
                f"{presenters.duration(compute['wall_s'])} wall, {presenters.duration(compute['cpu_s'])} CPU, "
                f"{presenters.size(compute['memory_bytes'])} memory"
            ),
        ),
        ("environment", ", ".join(f"{key} {value}" for key, value in data["environment"].items())),
        ("record", f"{data['created_at']} {data['record']}"),
    ]
    evidence = data.get("evidence")
    if evidence:
        counts = ", ".join(f"{name} {count:,}" for name, count in evidence["counts"].items())
        items += [
            (
                "measured",
                f"at isolation {evidence['isolation']} by evaluator {evidence['evaluator']}: {counts}",
            ),
            ("measurements", f"{evidence['measurements']} nonce {evidence['nonce'][:16]}"),
        ]
    if data.get("failure"):
        items.append(("failed at", f"{data['failure']['stage']}: {data['failure']['reason']}"))
    console.print(pairs(items))


def draw_samples(console: Console, samples: Sequence[Sample]) -> None:
    """Pairs of outputs as plain text."""
    for index, sample in enumerate(samples, 1):
        same = "" if sample.champion != sample.candidate else " · both the same"
        show(console, heading(f"Sample {index} of {len(samples)} · {sample.suite}{same}"))
        console.print(
            pairs([
                ("prompt", presenters.plain(sample.prompt, _SAMPLE_CHARS)),
                ("champion", presenters.plain(sample.champion, _SAMPLE_CHARS)),
                ("candidate", presenters.plain(sample.candidate, _SAMPLE_CHARS)),
            ])
        )  # fmt: skip


def draw_votes(console: Console, votes: Sequence[Json], now: str) -> None:
    """Who signed what, when and why."""
    if not votes:
        return
    rows = [
        (
            vote["action"], vote["name"], vote["role"], presenters.age(vote["at"], now), vote["surface"],
            ", ".join(vote["viewed"]) or "–", presenters.one_line(vote["reason"], 200),
        )
        for vote in votes
    ]  # fmt: skip
    show(console, "", heading("Signatures"))
    console.print(table(("Decision", "Who", "Role", "Age", "Where", "Viewed", "Reason"), rows))


def draw_remarks(console: Console, remarks: Sequence[Json], now: str) -> None:
    """What people had to say, in the order of the log."""
    if not remarks:
        return
    rows = [
        (
            remark["action"].replace("-", " "), remark["name"], remark["role"], presenters.age(remark["at"], now),
            presenters.one_line(remark["reason"], 400),
        )
        for remark in remarks
    ]  # fmt: skip
    show(console, "", heading("Remarks"))
    console.print(table(("What", "Who", "Role", "Age", "Text"), rows))


def draw_changes(console: Console, changes: Sequence[Json]) -> None:
    """The requests for change that stand: they hold everything up."""
    for change in changes:
        said = presenters.one_line(change["reason"], 300)
        console.print(line(presenters.Mark("▲", f"{change['name']} asks for a change: {said}", "caution")))


def request_data(view: View, row: RequestRow) -> Json:
    """A request with its signatures, and what is still missing."""
    from guardrails.ledger import asked

    votes = [presenters.vote_fields(v, view.name_of(v.person), view.text(v.reason)) for v in row.votes]
    said = [presenters.vote_fields(v, view.name_of(v.person), view.text(v.reason)) for v in row.remarks]
    data = presenters.request_fields(row, votes, said)
    data["missing"] = asked.missing_of(view.snapshot.tables, row, _now())
    data["state"] = asked.state_of(view.snapshot.tables, row, _now()).value
    return data


def draw_request(console: Console, data: Json, now: str) -> None:
    """One request in full."""
    state = _REQUEST_MARKS[data["state"]]
    console.print(line(heading(data["id"]), state, f"· {data['action']} · {data['target']}"))
    items = [("asked", f"{presenters.ago(data['created_at'], now)} ({data['created_at']})")]
    if data["digest"]:
        items.append(("digest", data["digest"]))
    if "policy" in data:
        items.append(("policy", f"{data['policy']['name']} {data['policy']['digest']}"))
    if "waiver" in data:
        waiver = data["waiver"]
        items.append(("waives", f"{waiver['rule']} for {waiver['bundle']} until {waiver['expires_at']}"))
    if data["champion_digest"]:
        items.append(("leaves", data["champion_digest"]))
    if data["state"] == "open":
        items.append(("missing", f"{data['missing']}; sign with: interlock approve {data['id']} --reason …"))
        if data["expires_at"]:
            ends = f"in {presenters.age(now, data['expires_at'])} ({data['expires_at']})"
            items.append(("expires", ends))
    elif data["missing"]:
        items.append(("over", data["missing"]))
    console.print(pairs(items))
    draw_votes(console, data["votes"], now)
    draw_remarks(console, data["remarks"], now)


def rationales(view: View, row: ProposalRow) -> dict[str, str]:
    """Rule → why its number, from the policies in force that the verdict names; others are left out."""
    from guardrails.ledger.in_force import policy_of

    found: dict[str, str] = {}
    for policy in view.policies():
        if row.verdict and row.verdict.policies.get(policy.name) == str(policy.source.digest):
            try:
                found |= {rule.id: rule.rationale for rule in policy_of(policy.source).rules}
            except InterlockError:
                continue
    return found


def _now() -> str:
    from ui.cli.session import Session

    return Session.now()
