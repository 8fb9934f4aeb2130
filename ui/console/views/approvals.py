"""Who signed, who is missing, what stands between a person and an approval, and what would follow from it."""

from __future__ import annotations

from guardrails import approval
from guardrails.gate import utc_now
from guardrails.ledger import standing as standings
from guardrails.ledger.rows import ProposalRow, Vote
from guardrails.ledger.standing import Standing
from guardrails.records import Action, Person, Role, State, Surface
from guardrails.view import View
from ui.console import markup
from ui.console.markup import Html, el
from ui.console.views.signing import Ask
from ui.presenters import age, ago, duration, moment, one_line

BLOCKED = (
    "A blocked proposal cannot be approved by anybody. A waiver, signed by a quorum of its own, can turn a "
    "waivable rule into a review; a new proposal can do better."
)
PART_WORDS = {
    "findings": "the rules", "samples": "the samples", "provenance": "the provenance", "diff": "the diff",
    "data": "the training records",
}  # fmt: skip


def wanted_roles(standing: Standing | None) -> tuple[Role, ...]:
    """The roles that the policies ask for."""
    rules = standing.rules if standing else ()
    return tuple(dict.fromkeys(role for rule in rules for role in rule.roles))


def obstacles(
    view: View, row: ProposalRow, standing: Standing, person: Person | None, seen: tuple[str, ...]
) -> list[str]:
    """What keeps this person from approving now, as sentences. The gate decides; this only says it early."""
    if person is None:
        return ["choose who you are, at the left"]
    found = []
    if not set(wanted_roles(standing)) & set(person.roles):
        found.append(f"you hold none of the roles {', '.join(wanted_roles(standing))}")
    if Surface.CONSOLE not in standing.terms.surfaces:
        found.append(f"the policy takes approvals from {', '.join(standing.terms.surfaces)} only")
    unseen = [part for part in standing.terms.require_viewed if part not in seen]
    if unseen:
        found.append("look at " + ", ".join(PART_WORDS.get(part, part) for part in unseen))
    if view.halted_by is not None:
        found.append("a halt is in force; nothing is promoted until somebody resumes")
    return found


def after_approval(
    view: View, row: ProposalRow, standing: Standing, person: Person, role: Role
) -> approval.Tally:
    """Where the quorum would stand with this person's signature, counted as the gate counts."""
    now = utc_now()
    votes = [
        standings.counted_vote(vote)
        for vote in row.votes if vote.action is Action.APPROVE and vote.person in standing.tally.people
    ]  # fmt: skip
    # Whoever approves is content with the change that they asked for; others still wait for theirs.
    votes += [standings.counted_vote(change) for change in row.changes if change.person != person.id]
    mine = approval.Vote(person.id, role, True, now, Surface.CONSOLE, standing.terms.require_viewed)
    assert view.roster is not None  # noqa: S101 - there is a person
    return approval.tally([*votes, mine], view.roster, standing.rules, standing.terms, now)


def best_roles(view: View, row: ProposalRow, standing: Standing, person: Person) -> tuple[Role, ...]:
    """The roles this person may sign in, the one that brings the quorum furthest first."""
    roles = [role for role in wanted_roles(standing) if role in person.roles]

    def reach(role: Role) -> tuple[bool, int]:
        tally = after_approval(view, row, standing, person, role)
        return tally.complete, len(tally.people)

    return tuple(sorted(roles, key=reach, reverse=True))


def consequence(view: View, row: ProposalRow, standing: Standing, person: Person) -> str:
    """What this person's approval would do, in a sentence."""
    roles = best_roles(view, row, standing, person)
    if not roles or row.proposal is None:
        return "Your signature does not count for this."
    tally = after_approval(view, row, standing, person, roles[0])
    needed = max(rule.quorum for rule in standing.rules)
    count = f"Approval {len(tally.people)} of {needed}"
    if not tally.complete:
        return f"{count}. Nothing moves yet: {tally.missing}."
    model = view.model(row.model)
    cool = standings.cool_down_s(view.snapshot.tables, row)
    when = f"after a cool-down of {duration(cool)}" if cool > 0 else "at once"
    alone = " It will be recorded that one person acted alone." if tally.sole_person else ""
    return (
        f"{count}: promotes {when}. The champion of {row.model} moves from {model.champion.short} to "
        f"{row.proposal.bundle.short}; {model.champion.short} stays reachable by rollback.{alone}"
    )


def ask(
    view: View, row: ProposalRow, standing: Standing | None, person: Person | None, action: Action
) -> Ask:
    """The dialog for a decision on a proposal, bound to what the page shows."""
    from ui.console import session

    binding = standings.binding_of(view.snapshot.tables, row)
    seen = session.console().seen.of(person.id if person else "", row.id, row.verdict_record)
    bound = (
        ("proposal", row.id), ("bundle", str(binding.bundle) if binding else ""),
        ("champion", str(binding.champion) if binding else ""), ("seen", ", ".join(seen) or "nothing"),
    )  # fmt: skip
    roles = wanted_roles(standing)
    then = "It ends here: rejected is final, and every open approval is void. Anybody can propose the change again."
    title, verb, hint = f"Reject {row.id}", "Sign and reject", "What speaks against it?"
    if action is Action.REQUEST_CHANGES:
        then = (
            "Nothing is promoted, whoever else approves, until you approve or withdraw this. "
            "An approval that you gave is taken back with it."
        )
        title, verb, hint = f"Ask for a change of {row.id}", "Sign and ask", "What has to change, and how?"
    if action is Action.COMMENT:
        then, binding, roles = "It stands in the log and on this page, and decides nothing.", None, ()
        title, verb, hint = f"Comment on {row.id}", "Sign and keep", "What should others know?"
    if action is Action.WITHDRAW and any(person and c.person == person.id for c in row.changes):
        then = "Nobody waits for your change any more. If nothing else is missing, it is promoted at once."
        title, verb, hint = f"Withdraw what you asked of {row.id}", "Sign and withdraw", "Was it made?"
    elif action is Action.WITHDRAW:
        then = "Your approval is taken back; the proposal waits for approvals again."
        title, verb, hint = (
            f"Withdraw your approval of {row.id}",
            "Sign and withdraw",
            "What changed your mind?",
        )
    if action is Action.APPROVE and standing is not None and person is not None:
        then, roles = consequence(view, row, standing, person), best_roles(view, row, standing, person)
        title, verb, hint = f"Approve {row.id}", "Sign and approve", ""
    elif person is not None and not set(roles) & set(person.roles):
        roles = person.roles
    return Ask(
        action=action, target=row.id, title=title, verb=verb, consequence=then, roles=roles, bound=bound,
        viewed=seen, shown=binding, hint=hint,
    )  # fmt: skip


# --- the rail --------------------------------------------------------------------------------


def rail(
    view: View,
    row: ProposalRow,
    standing: Standing | None,
    person: Person | None,
    seen: tuple[str, ...],
    now: str,
) -> Html:
    """The right side of a proposal: signatures, what is missing, and what follows."""
    parts = [_signatures(view, row, standing, now)]
    if standing is not None and row.state in (State.AWAITING_APPROVAL, State.APPROVED):
        voted = person is not None and any(
            v.person == person.id and v.action is Action.APPROVE for v in row.votes
        )
        if not voted:
            parts.append(_checklist(view, row, standing, person, seen))
        parts.append(_times(standing, now))
        if person is not None and not voted and row.state is State.AWAITING_APPROVAL:
            parts.append(el("div", consequence(view, row, standing, person), cls="then"))
    elif row.state is State.BLOCKED:
        parts.append(el("p", BLOCKED, cls="soft"))
    if row.remarks:
        parts.append(_remarks(view, row, now))
    return el("div", *parts, cls="rail")


def _remarks(view: View, row: ProposalRow, now: str) -> Html:
    """Comments and requests for change, in the order of the log; those that stand are marked."""
    standing = {change.record for change in row.changes}
    items = []
    for said in row.remarks:
        is_change = said.action is Action.REQUEST_CHANGES
        word = (
            "commented"
            if not is_change
            else "asks for a change"
            if said.record in standing
            else "asked for a change"
        )
        glyph, cls = ("▲", "no") if said.record in standing else ("·", "open")
        items.append(
            el(
                "li", el("i", glyph, cls=f"gl {cls}", aria_hidden="true"),
                el("span", el("b", one_line(view.name_of(said.person), 60)), f" {word}, {said.role.value}"),
                el("small", f"“{one_line(view.text(said.reason), 600)}”"),
                el("small", f"{ago(said.at, now)} · {said.surface.value} · record {said.seq}"),
            )
        )  # fmt: skip
    return el("section", markup.eyebrow("Remarks", str(len(items))), el("ul", *items))


def _signatures(view: View, row: ProposalRow, standing: Standing | None, now: str) -> Html:
    needed = max((rule.quorum for rule in standing.rules), default=0) if standing else 0
    given = len(standing.tally.people) if standing else sum(v.action is Action.APPROVE for v in row.votes)
    items = [_vote(view, vote, now) for vote in row.votes]
    if standing is not None and standing.tally.missing:
        items.append(_line("○", "open", f"Missing: {standing.tally.missing}"))
    if not items:
        items.append(_line("○", "open", "No signatures."))
    return el(
        "section", markup.eyebrow("Signatures", f"{given} of {needed}" if needed else ""), el("ul", *items)
    )


def _vote(view: View, vote: Vote, now: str) -> Html:
    glyph, cls = ("✓", "yes") if vote.action is Action.APPROVE else ("✕", "no")
    title = el(
        "span", el("b", one_line(view.name_of(vote.person), 60)), f" {vote.action.value}, {vote.role.value}"
    )
    reason = one_line(view.text(vote.reason), 400)
    when = f"{ago(vote.at, now)} · {vote.surface.value} · record {vote.seq}"
    return el(
        "li",
        el("i", glyph, cls=f"gl {cls}", aria_hidden="true"),
        title,
        el("small", f"“{reason}”"),
        el("small", when),
    )


def _checklist(
    view: View, row: ProposalRow, standing: Standing, person: Person | None, seen: tuple[str, ...]
) -> Html:
    items = []
    for part in standing.terms.require_viewed:
        done = part in seen
        items.append(
            _line("✓" if done else "○", "yes" if done else "open", f"Look at {PART_WORDS.get(part, part)}")
        )
    others = [o for o in obstacles(view, row, standing, person, seen) if not o.startswith("look at ")]
    items += [_line("✕", "no", other[:1].upper() + other[1:]) for other in others]
    if not items:
        items = [_line("✓", "yes", "Nothing stands in the way")]
    return el("section", markup.eyebrow("Before you can approve"), el("ul", *items))


def _times(standing: Standing, now: str) -> Html:
    rows = [("expires", f"in {age(now, standing.expires_at)}" if now < standing.expires_at else "expired")]
    if standing.ready_at:
        rows.insert(0, ("promoted", moment(standing.ready_at)))
    if not standing.promotions_left:
        rows.append(("budget", "the promotions of today are used up"))
    return markup.facts(rows, cls="tight")


def _line(glyph: str, cls: str, words: str) -> Html:
    return el("li", el("i", glyph, cls=f"gl {cls}", aria_hidden="true"), el("span", words))
