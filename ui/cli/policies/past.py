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
    from rich.table import Table

    from guardrails.authoring.backtest import Flip
    from guardrails.policy import LoadedPolicy

_LOOSENED, _TIGHTENED = presenters.Mark("✕", "loosened", "bad"), presenters.Mark("✓", "tightened", "good")
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


@add(policy, "backtest", help="Replay every past proposal by a new policy: which verdicts would flip.")
@click.argument("file", metavar="NEW.yaml", type=click.Path(path_type=Path))
@click.option(
    "--alone", is_flag=True, help="By this policy only, without the others that were in force then."
)
@click.option("--limit", type=click.IntRange(min=1), default=40, help="Show at most so many flips [40].")
def backtest(session: Session, file: Path, alone: bool, limit: int) -> None:
    """Replay the past."""
    from guardrails.authoring.backtest import backtest as replay
    from guardrails.authoring.history import read_history
    from guardrails.policy import load_policy

    loaded = load_policy(file)
    with session.view() as view:
        history = read_history(view.snapshot.tables)
    total = max(1, len(history.past))
    with session.output.progress() as report:
        found = replay(
            loaded, history, session.workspace.store, alone=alone,
            progress=lambda done: report("replaying", done / total),
        )  # fmt: skip
    data = presenters.backtest_fields(found)

    def draw(console: Console) -> None:
        console.print(heading(f"{loaded.policy.name} against the past"))
        console.print(line(presenters.backtest_sentence(found)))
        if found.flips:
            console.print(_flips(found.flips[:limit]))
        if len(found.flips) > limit:
            console.print(line(f"and {len(found.flips) - limit} more: --limit, or --json for all"))
        for refused in found.refused[:limit]:
            told = f"{refused.id} was approved and would not have been: {refused.reason}"
            console.print(line(presenters.Mark("▲", told, "caution")), soft_wrap=True)
        for rule, ids in found.not_measured.items():
            told = f"{rule} was not measured then for {presenters.counted(len(ids), 'proposal')}, which it therefore blocks"
            console.print(line(presenters.Mark("▲", told, "caution")), soft_wrap=True)
        for what, rules in (("never failed", found.never_fired), ("never applied", found.never_applied)):
            if rules:
                console.print(
                    line(presenters.Mark("·", f"{what}: {', '.join(rules)}", "muted")), soft_wrap=True
                )
        for proposal, reason in found.not_replayable[:limit]:
            console.print(line(presenters.Mark("·", f"{proposal} cannot be replayed: {reason}", "muted")))

    session.output.result("policy backtest", data, draw)


def _flips(flips: list[Flip]) -> Table:
    rows = [
        (
            flip.id,
            flip.model,
            marked(presenters.verdict_mark(flip.before)),
            marked(presenters.verdict_mark(flip.after)),
            marked(_LOOSENED if flip.loosened else _TIGHTENED),
            ", ".join(flip.rules),
            flip.state,
        )
        for flip in flips
    ]
    return table(("ID", "Model", "Before", "After", "", "Because of", "State"), rows)


def policy_at(session: Session, name: str) -> LoadedPolicy:
    """The policy in a file; or, where there is no such file, the one of that name in force."""
    from guardrails.ledger.judging import in_force
    from guardrails.policy import load_policy

    path = Path(name)
    if path.is_file() or path.suffix in {".yaml", ".yml"}:
        return load_policy(path)
    with session.view() as view:
        present = in_force(view.snapshot.tables)
    found = next((loaded for loaded in present if loaded.policy.name == name), None)
    if found is None:
        known = ", ".join(loaded.policy.name for loaded in present) or "none"
        raise UsageError(
            f"there is no file {name:.80}, and no policy of that name is in force",
            hint=f"in force: {known}",
        )
    return found
