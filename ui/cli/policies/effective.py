"""What the policies come to together: every value that holds, and where it was stated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardrails.records import ModelKind
from ui import presenters
from ui.cli.output import heading, line, show, table
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.policy import Policy


def show_effective(session: Session, name: str, model: str) -> None:
    """Print every rule and every setting with its source: of all policies in force, of one, or for a model."""
    from guardrails.policy import contradictions

    policies = _chosen(session, name, model)
    data = presenters.effective_fields(policies)
    problems = contradictions(policies)
    data["problems"] = [presenters.problem_fields(problem) for problem in problems]

    def draw(console: Console) -> None:
        if not policies:
            console.print(line("No binding policy speaks of this: everything is blocked."))
        for problem in problems:
            console.print(line(presenters.Mark("▲", str(problem), "caution")), soft_wrap=True)
        rules = [(r["rule"], r["limit"], r["severity"], r["policy"], r["source"]) for r in data["rules"]]
        show(console, heading("Rules"), table(("Rule", "Passes where", "If not", "Policy", "Line"), rules))
        settings = [(s["path"], s["value"], ", ".join(s["sources"]) or "default") for s in data["settings"]]
        show(console, heading("Settings"), table(("Key", "Value", "Stated in"), settings))

    session.output.result("policy show effective", data, draw)


def _chosen(session: Session, name: str, model: str) -> list[Policy]:
    """The binding policies to put together."""
    from guardrails.ledger.judging import in_force
    from ui.cli.policies.past import policy_at

    if name:
        return [policy_at(session, name).policy]
    with session.view() as view:
        policies = [loaded.policy for loaded in in_force(view.snapshot.tables) if loaded.policy.is_binding]
        row = view.model(model) if model else None
    if row is None:
        return policies
    return [p for p in policies if p.scope.matches(row.name, ModelKind(row.kind), row.labels)]
