"""Policy files that lie somewhere and the policies in force: an edited file changes nothing, and this says so.

Invariants: reads files and changes nothing; a file that cannot be read as a policy still counts as differing
if it says the name of a policy in force; a file whose name is not in force is no difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guardrails.authoring.difference import Difference, differences
from guardrails.errors import PolicyError, Problem
from guardrails.ledger.in_force import policy_of
from guardrails.ledger.rows import PolicyRow
from guardrails.policy import load_policy
from guardrails.policy.loader import MAX_BYTES
from guardrails.policy.yaml_tree import parse_tree

MOST_FILES = 50


@dataclass(frozen=True)
class Apart:
    """A file that is not what is in force. ``changes`` is empty where only words differ, or it is unusable."""

    path: Path
    name: str
    request: str
    activated_at: str
    changes: tuple[Difference, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def sentence(self) -> str:
        """What people should know."""
        since = f"since {self.request}, {self.activated_at[:10]}"
        told = f"{self.path} differs from what is in force ({since})"
        if self.problems:
            return f"{told}, and is not usable: {self.problems[0]}"
        if not self.changes:
            return f"{told} in words only: no rule and no setting changes"
        return f"{told}: activate it to change anything"


def files_in(folders: Iterable[Path]) -> list[Path]:
    """The policy files of folders, each once; what is not there or cannot be listed is left out."""
    found: dict[Path, Path] = {}
    for folder in folders:
        try:
            inside = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
            for path in inside[:MOST_FILES]:
                if path.is_file():
                    found.setdefault(path.resolve(), path)
        except OSError:
            continue
    return list(found.values())


def apart(rows: Iterable[PolicyRow], files: Iterable[Path]) -> list[Apart]:
    """The files that bear the name of a policy in force and are not its bytes."""
    in_force = {row.name: row for row in rows}
    return [found for file in files if (found := _apart(in_force, file)) is not None]


def _apart(in_force: dict[str, PolicyRow], file: Path) -> Apart | None:
    try:
        loaded = load_policy(file)
    except PolicyError as error:
        row = in_force.get(_name_in(file))
        return Apart(file, row.name, row.request, row.activated_at, (), error.problems) if row else None
    row = in_force.get(loaded.policy.name)
    if row is None or row.source.files == loaded.source.files or row.source.digest == loaded.source.digest:
        return None
    changes = tuple(differences(policy_of(row.source), loaded.policy))
    return Apart(file, row.name, row.request, row.activated_at, changes)


def _name_in(file: Path) -> str:
    """The name that a file claims, even where the rest of it is unusable; "" where it claims none."""
    try:
        with file.open("rb") as stream:
            tree = parse_tree(file.name, stream.read(MAX_BYTES))
    except OSError:
        return ""
    metadata = tree.value.get("metadata") if isinstance(tree.value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else file.stem
