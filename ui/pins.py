"""Root keys that this installation trusts, kept outside the database.

Invariants:
- ``keys/roots.pub`` in the workspace is written once, when the workspace is founded; ``$INTERLOCK_ROOT_KEYS`` (keys,
  or a file with keys) adds to it. Every key given anywhere must have signed the first roster: one that did not
  means another log, and nothing of that log is opened.
- A list that cannot be read is an error, never an empty list.
"""

from __future__ import annotations

import os
from pathlib import Path

from guardrails.decision_log.roots import founding_keys, parse_pins, require_pinned
from guardrails.decision_log.store import Log
from guardrails.errors import LogVerificationError, UsageError

FILE_NAME = "roots.pub"
VARIABLE = "INTERLOCK_ROOT_KEYS"

_HEADER = """\
# Root keys of this workspace's decision log, one OpenSSH public key a line. Every command that opens the log
# checks that each of them signed its first record. Keep a copy elsewhere: whoever can change this file and the
# database can replace both.
"""


def read_keys(given: str) -> tuple[str, ...]:
    """Keys given as text (one a line) or as the name of a file that holds them; raises UsageError."""
    if given.lstrip().startswith(("ssh-", "sk-ssh-")):
        return parse_pins(given, "the root keys given")
    try:
        return parse_pins(Path(given).read_text(encoding="utf-8"), given)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"{given:.200} cannot be read: {reason}") from None


def pinned(workspace: Path) -> tuple[str, ...]:
    """Every root key that is pinned for a workspace; empty where nobody pinned any."""
    keys: tuple[str, ...] = ()
    file = workspace / "keys" / FILE_NAME
    if file.exists():
        keys = read_keys(str(file))
    return tuple(dict.fromkeys((*keys, *given())))


def given() -> tuple[str, ...]:
    """The root keys that ``$INTERLOCK_ROOT_KEYS`` gives; empty where it is not set."""
    named = os.environ.get(VARIABLE, "")
    return read_keys(named) if named else ()


def require(log: Log, workspace: Path) -> None:
    """Raise LogVerificationError unless the log was founded by every root that is pinned for the workspace."""
    keys = pinned(workspace)
    if not keys:
        return
    with log.read() as snapshot:
        if snapshot.size:
            require_pinned(snapshot.entry(0), keys)
        elif (workspace / "keys" / FILE_NAME).exists():  # written once there was a first record
            raise LogVerificationError(
                "the log is empty, and this workspace was founded: the log was exchanged or emptied",
                hint="restore it from a backup",
            )


def pin(log: Log, workspace: Path) -> tuple[str, ...]:
    """Write down the root keys that founded a log, beside it; returns them. An existing list stays as it is."""
    with log.read() as snapshot:
        keys = founding_keys(snapshot.entry(0))
    file = workspace / "keys" / FILE_NAME
    if not file.exists():
        incoming = file.with_suffix(".new")
        incoming.write_text(_HEADER + "".join(f"{key}\n" for key in keys), encoding="ascii")
        incoming.chmod(0o600)
        incoming.replace(file)
    return keys
