"""Two versions of a policy: what differs between them, and what the past would have been.

Invariants: nothing here changes anything; every exit status is 0 unless something could not be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrails.errors import UsageError
from ui import presenters
from ui.cli.group import add
from ui.cli.output import heading, line, marked, table
from ui.cli.policies.groups import policy
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.policy import LoadedPolicy

_MARKS = {
    "looser": presenters.Mark("✕", "looser", "bad"),
    "different": presenters.Mark("▲", "different", "caution"),
    "tighter": presenters.Mark("✓", "tighter", "good"),
    "neutral": presenters.Mark("·", "neutral", "muted"),
}


@add(policy, "diff", help="What differs between two policies, key by key: which is tighter, which looser.")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
def diff(session: Session, before: str, after: str) -> None:
    """Compare two policies: files, or names of policies in force."""
    from guardrails.authoring.difference import differences

    old, new = policy_at(session, before), policy_at(session, after)
    found = differences(old.policy, new.policy)
    data = {
        "before": {"name": old.policy.name, "digest": str(old.source.digest)},
        "after": {"name": new.policy.name, "digest": str(new.source.digest)},
        "loosens": any(d.direction in ("looser", "different") for d in found),
        "changes": [vars(d) for d in found],
    }

    def draw(console: Console) -> None:
        console.print(heading(f"{before} → {after}"))
        if not found:
            console.print(line("No rule and no setting differs."))
            return
        rows = [
            (marked(_MARKS[d.direction]), d.path, d.before or "–", d.after or "–", d.after_at or d.before_at)
            for d in found
        ]
        console.print(table(("", "Key", "A", "B", "Policy line"), rows))

    session.output.result("policy diff", data, draw)


def policy_at(session: Session, name: str) -> LoadedPolicy:
    """The policy in a file; or, where there is no such file, the one of that name in force."""
    from guardrails.ledger.standing import policy_of
    from guardrails.policy import LoadedPolicy, load_policy

    path = Path(name)
    if path.is_file() or path.suffix in {".yaml", ".yml"}:
        return load_policy(path)
    with session.view() as view:
        rows = view.policies()
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        known = ", ".join(row.name for row in rows) or "none"
        raise UsageError(
            f"there is no file {name:.80}, and no policy of that name is in force",
            hint=f"in force: {known}",
        )
    return LoadedPolicy(policy_of(row.source), row.source)
