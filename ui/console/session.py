"""What lives longer than one run of the script: the workspace, who looked at what, whether the log holds.

Invariants:
- Who is looking is a claim, kept for one browser session and dropped after ``IDLE_S`` without a click; it
  gives no right to anything. A signature needs that person's key and passphrase, each time.
- What somebody has seen is kept here, on the server, for exactly one verdict of one proposal: a reload
  does not lose it, and new evidence starts it afresh.
- A passphrase is a local variable of one call; it is in no state, no record and no message.
- What is appended is bound to what was shown: ``sign`` refuses if the state moved in between.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from guardrails.canonical import Digest
from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.keys import HeldSignature, PersonKey
from guardrails.decision_log.verify import Verification, verify_log
from guardrails.decisions import Draft, Intention, Receipt
from guardrails.errors import DeniedError, InterlockError, InvalidInputError, StaleError
from guardrails.gate import utc_now
from guardrails.ledger import project
from guardrails.records import Action, Binding, Person
from guardrails.view import View, proven_view_of, view_of
from ui.wiring import Workspace

IDLE_S = 15 * 60
VERIFY_AGAIN_S = 300.0
MAX_SEEN = 4096
LOOP_STALE_S = 120.0


@dataclass
class Seen:
    """Which parts of a proposal each person has opened, in the order of opening."""

    _parts: OrderedDict[tuple[str, str, str], dict[str, str]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, person: str, proposal: str, verdict: Digest | None, part: str) -> None:
        """Remember that a part was on this person's screen."""
        if not person or verdict is None:
            return
        with self._lock:
            parts = self._parts.setdefault((person, proposal, verdict.hex), {})
            parts.setdefault(part, now())
            self._parts.move_to_end((person, proposal, verdict.hex))
            while len(self._parts) > MAX_SEEN:
                self._parts.popitem(last=False)

    def of(self, person: str, proposal: str, verdict: Digest | None) -> tuple[str, ...]:
        """The parts seen so far."""
        with self._lock:
            return tuple(self._parts.get((person, proposal, verdict.hex if verdict else ""), ()))


class Watch:
    """Verifies the whole log in the background: when it grew, and every few minutes all the same."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._running = False
        self._done_at = 0.0
        self._result: Verification | None = None

    def result(self, size: int) -> tuple[Verification | None, bool]:
        """The newest verification, and whether it covers the log as it is now; starts one if it does not."""
        with self._lock:
            result, age = self._result, time.monotonic() - self._done_at
            current = result is not None and result.entries == size and age < VERIFY_AGAIN_S
            if not current and not self._running:
                self._running = True
                threading.Thread(target=self._verify, name="verify-log", daemon=True).start()
            return result, result is not None and result.entries == size

    def _verify(self) -> None:
        try:
            with self._workspace.log.read() as snapshot:
                result = verify_log(snapshot, project)
        except InterlockError as error:
            result = Verification(reason=error.message)
        except Exception as error:
            result = Verification(reason=f"the verification itself failed: {type(error).__name__}")
        with self._lock:
            self._result, self._done_at, self._running = result, time.monotonic(), False


@dataclass
class Console:
    """What all visitors of one server share."""

    workspace: Workspace
    seen: Seen
    watch: Watch


_consoles: list[Console] = []


def configure(workspace: Workspace) -> Console:
    """Say which workspace this process serves."""
    _consoles[:] = [Console(workspace, Seen(), Watch(workspace))]
    return _consoles[0]


def console() -> Console:
    """The console of this process."""
    if not _consoles:
        raise InterlockError("the console was not started", hint="run `interlock console`")
    return _consoles[0]


@contextmanager
def proven_view() -> Iterator[View]:
    """The log as its signed records make it: for pages and dialogs by which somebody decides.

    Where the services' keys are not on this machine nothing can be signed, and the tables have to do.
    """
    workspace = console().workspace
    if not workspace.service_key("log").is_file():
        with view() as opened:
            yield opened
        return
    with proven_view_of(workspace.gate.log) as opened:
        yield opened


@contextmanager
def view() -> Iterator[View]:
    """The log as it is now."""
    with view_of(console().workspace.log) as opened:
        yield opened


def now() -> str:
    """The time as records write it."""
    return format_time(utc_now())


def log_size() -> int:
    """How many records there are: one cheap read."""
    with console().workspace.log.read() as snapshot:
        return snapshot.size


# --- who is looking --------------------------------------------------------------------------


def touch() -> None:
    """Note that the person did something. Not called for what the page does by itself."""
    st.session_state["active_at"] = time.monotonic()


def is_locked() -> bool:
    """True once nobody did anything for a while; choosing a name again lifts it."""
    return bool(st.session_state.get("locked"))


def lock_if_idle() -> bool:
    """Lock the session if it was idle for too long; True if that just happened."""
    last = st.session_state.get("active_at")
    if last is None or is_locked() or time.monotonic() - last < IDLE_S:
        return False
    st.session_state["locked"] = True
    st.session_state.pop("person", None)
    return True


def choose(person_id: str) -> None:
    """Say who is looking."""
    st.session_state["person"] = person_id
    st.session_state["locked"] = False
    touch()


def person_id() -> str:
    """Who says that they are looking; empty if nobody has."""
    return str(st.session_state.get("person", ""))


def person_in(opened: View) -> Person | None:
    """The roster's entry of who is looking; the only person of a workspace need not be asked."""
    people = opened.people()
    if not person_id() and len(people) == 1 and not is_locked():
        choose(people[0][0].id)
    return next((person for person, _ in people if person.id == person_id()), None)


# --- signing ---------------------------------------------------------------------------------


class PassphraseError(DeniedError):
    """The key could not be unlocked; nothing was prepared or signed."""


def sign(
    wish: Intention, passphrase: str, *, shown: Binding | None, champion: Digest | None = None
) -> Receipt:
    """Prepare a decision, check that it is about what was shown, sign and append it.

    Args:
        wish: What the person decided.
        passphrase: Unlocks that person's key, for this one signature.
        shown: What the page was bound to when it was shown (proposals).
        champion: The champion that the page named (rollback).

    Raises:
        PassphraseError: The passphrase is wrong or the key is not here.
        StaleError: Something changed since the page was shown.
    """
    key = unlock(wish.person, passphrase)
    return console().workspace.gate.commit(prepare(wish, shown=shown, champion=champion), key)


def unlock(person: str, passphrase: str) -> PersonKey:
    """A person's key, for one signature; raises PassphraseError where it stays locked."""
    try:
        return PersonKey.load(console().workspace.people_keys / person, passphrase)
    except DeniedError:
        raise PassphraseError("The passphrase was not accepted. Nothing was signed.") from None
    except InvalidInputError:
        raise PassphraseError(
            "Your private key is not on this machine, or cannot be read. Nothing was signed.",
            hint="sign where the key is, or offline with ssh-keygen",
        ) from None


def prepare(wish: Intention, *, shown: Binding | None, champion: Digest | None = None) -> Draft:
    """The bytes to sign, if they are about what was shown; raises StaleError otherwise."""
    if champion is not None:
        with proven_view() as opened:
            if opened.model(wish.target).champion != champion:
                raise StaleError(f"{wish.target} has another champion than the one shown")
    draft = console().workspace.gate.draft(wish)
    if draft.decision.binding != shown:
        raise StaleError(f"{wish.target} is not what it was when this page was shown")
    return draft


def hand_in(draft: Draft, signature: str) -> Receipt:
    """Append a decision that was signed elsewhere.

    Raises:
        InvalidInputError: no signature as ssh-keygen writes it.
        DeniedError: it does not hold over this statement, or the rules do not allow the decision.
    """
    return console().workspace.gate.commit(draft, HeldSignature.parse(signature, "the file"))


def key_is_here(person: str) -> bool:
    """Whether a person's private key lies in this workspace, so that a passphrase can unlock it."""
    return (console().workspace.people_keys / person).is_file()


def keep_receipt(receipt: Receipt) -> None:
    """Remember a receipt, so that the page it belongs to shows it in place."""
    st.session_state["receipt"] = replace(receipt)


def receipt_for(*targets: str) -> Receipt | None:
    """The newest receipt of this session, if it is about one of the targets."""
    receipt: Receipt | None = st.session_state.get("receipt")
    return receipt if receipt is not None and (not targets or receipt.target in targets) else None


def drop_receipt() -> None:
    """Forget the receipt; called when another page is opened."""
    st.session_state.pop("receipt", None)


# --- the loop's own claim --------------------------------------------------------------------


@dataclass(frozen=True)
class LoopState:
    """What the loop says that it is doing. A claim for the eye; nothing is decided by it."""

    state: str = "absent"
    model: str = ""
    stage: str = ""
    share: float = 0.0


def loop_state() -> LoopState:
    """Read the loop's file; anything odd in it counts as absent."""
    path = console().workspace.path / "loop.json"
    try:
        if path.stat().st_size > 4096:
            return LoopState()
        quiet = time.time() - path.stat().st_mtime
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        share = float(value.get("share", 0.0))
        read = LoopState(
            str(value["state"])[:20], str(value.get("model", ""))[:64],
            str(value.get("stage", ""))[:80], min(max(share, 0.0), 1.0),
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return LoopState()
    lost = read.state in ("running", "idle") and quiet > LOOP_STALE_S and not _lives(value.get("pid"))
    return replace(read, state="silent") if lost else read


def _lives(pid: Any) -> bool:
    """True if a process of this number is there; a long silent stage is no sign of death."""
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 1 << 31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


ACTION_WORDS = {
    Action.APPROVE: "Approval", Action.REJECT: "Rejection", Action.WITHDRAW: "Withdrawal",
    Action.ROLLBACK: "Rollback", Action.HALT: "Halt", Action.RESUME: "Resume", Action.WAIVE: "Waiver",
    Action.ACTIVATE: "Activation", Action.DEACTIVATE: "Deactivation", Action.ADOPT: "Adoption",
    Action.COMMENT: "Comment", Action.REQUEST_CHANGES: "Request for change", Action.REVOKE: "Revocation",
    Action.SET_CLOCK: "Time",
}  # fmt: skip
