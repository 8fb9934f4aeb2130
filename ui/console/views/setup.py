"""Set-up in the browser: the first person, who then signs for the first policy and the base models.

Invariants: only from this very machine, only with the token that the terminal printed, and only while
there is nobody; the token is worthless afterwards. Nothing is remembered of the passphrase; the key it
unlocks is held until the set-up has ended.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import streamlit as st

from guardrails.decision_log.keys import PersonKey
from guardrails.errors import DeniedError, InterlockError, InvalidInputError, UsageError
from guardrails.records import Role, Surface
from ui import pins
from ui.console import markup, session
from ui.console.markup import el
from ui.console.views import sidebar
from ui.presenters import one_line
from ui.setup import (
    MIN_PASSPHRASE_CHARS,
    check_setup_token,
    complete,
    drop_setup_token,
    found,
    is_founded,
    is_ready,
)
from ui.wiring import Workspace

FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via")


@dataclass
class Job:
    """A set-up under way; one a process."""

    stage: str = "writing the first roster"
    share: float = 0.0
    error: str = ""
    done: bool = False


_job: list[Job] = []
_lock = threading.Lock()


def is_local() -> bool:
    """True for a visitor on this machine, straight to this server and not through a proxy."""
    if any(st.context.headers.get(name) for name in FORWARDED):
        return False
    address = st.context.ip_address
    try:
        return address is None or ip_address(address).is_loopback
    except ValueError:
        return False


def frame(workspace: Workspace) -> None:
    """The sidebar of this page. It is not drawn again when set-up ends, so what it says must be true then too."""
    said = "Not set up. Nothing runs, and nobody can decide anything yet."
    if _job:
        said = "In set-up. The queue opens from here once it is done."
    with st.sidebar:
        markup.show(sidebar.brand(workspace.path))
        markup.show(
            el(
                "p",
                said,
                cls="dim",
                style="font-size:12.5px",
            )
        )


def page() -> None:
    """The set-up page."""
    workspace = session.console().workspace
    left, _ = st.columns([1.5, 1])
    with left:
        markup.show(el(
            "div", el("h1", "Set up this workspace"),
            el("div", el("span", "You become its first operator and its root of trust."), cls="under"), cls="head",
        ))  # fmt: skip
        if not is_local():
            markup.show(markup.notice(
                "bad", "Set-up is only possible on this machine.",
                "Open the console at 127.0.0.1, or run `interlock init --operator NAME` in a terminal there.",
            ))  # fmt: skip
        elif _job:
            _progress()
        else:
            _form(workspace)


def _form(workspace: Workspace) -> None:
    markup.show(el("p", "Setting up makes and signs:", cls="soft"))
    markup.show(markup.facts([
        ("1", "a key of your own, behind a passphrase, that stays in this workspace"),
        ("2", "the roster (who may do what), with you as operator and root, signed by that key"),
        ("3", "the activation of policies/default.yaml and the adoption of every configured base model, signed too"),
    ], cls="steps"))  # fmt: skip
    with st.form("setup", border=False):
        token = st.text_input(
            "Set-up token, from the terminal", key="setup-token", autocomplete="off", type="password"
        )
        name = st.text_input("Your name", key="setup-name", max_chars=80, autocomplete="off")
        first = st.text_input("Passphrase", type="password", key="setup-pass", autocomplete="new-password",
                              help=f"At least {MIN_PASSPHRASE_CHARS} characters. It cannot be recovered.")  # fmt: skip
        again = st.text_input(
            "Passphrase, once more", type="password", key="setup-again", autocomplete="new-password"
        )
        spare = st.text_input(
            "Recovery key, written to this file (optional)", key="setup-recovery", max_chars=1000, autocomplete="off",
            placeholder="/media/stick/interlock-recovery.key",
            help="A second root that can only change the roster, behind the same passphrase: the way back if your own "
            "key is lost. Name a file on another medium, and take that away from this machine.",
        )  # fmt: skip
        if not st.form_submit_button("Create key and set up", type="primary"):
            return
    try:
        if first != again:
            raise UsageError("the two passphrases are not the same")
        with _lock:
            check_setup_token(workspace, token or "")
            recovery = _recovery_file(workspace, spare or "")
            key = found(workspace, name or "", first or "", recovery=recovery)
            drop_setup_token(workspace)
    except InterlockError as error:
        markup.show(markup.notice("bad", one_line(error.message[:1].upper() + error.message[1:]), error.hint))
        return
    st.session_state["founding"] = True
    st.session_state["recovery"] = "" if recovery is None else str(recovery)
    start(workspace, key)
    st.rerun()


def _recovery_file(workspace: Workspace, given: str) -> Path | None:
    """Where the recovery key goes; None where none is wanted.

    Raises:
        UsageError: it cannot be written there, or it would lie where the other key lies.
    """
    if not given.strip():
        return None
    file = Path(given.strip()).expanduser()
    if not file.is_absolute():
        raise UsageError(
            "the recovery key needs a whole path", hint="like /media/stick/interlock-recovery.key"
        )
    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} exists already; a private key is never overwritten")
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise UsageError(f"{file.parent} is no folder that can be written to")
    if file.parent.resolve().is_relative_to(workspace.path.resolve()):
        raise UsageError(
            "the recovery key belongs outside this workspace", hint="on a medium that is kept elsewhere"
        )
    return file


def start(workspace: Workspace, key: PersonKey) -> None:
    """Complete the set-up in the background; the page shows how far it is."""
    with _lock:
        if _job and not _job[0].done:
            return
        _job[:] = [Job()]
    threading.Thread(target=_work, args=(workspace, key, _job[0]), name="set-up", daemon=True).start()


def _work(workspace: Workspace, key: PersonKey, job: Job) -> None:
    from sandbox.runner import LocalRunner

    runner = LocalRunner()

    def report(stage: str, share: float) -> None:
        job.stage, job.share = stage, share

    try:
        complete(workspace, key, runner, Surface.CONSOLE, report)
    except InterlockError as error:
        job.error = str(error)
    except Exception as error:  # a thread's exception is shown to nobody else
        job.error = f"{type(error).__name__} while {job.stage}"
    finally:
        runner.shutdown()
        job.done = True


@st.fragment(run_every=1.0)
def _progress() -> None:
    job = _job[0]
    if job.error:
        kept = "What was signed stays; going on does what is still missing."
        markup.show(markup.notice("bad", "Set-up stopped.", f"{job.error}. {kept}"))
        if st.button("Go on to the console", type="primary"):
            _leave()
        return
    if not job.done:
        st.progress(min(max(job.share, 0.0), 1.0))
        markup.show(el("p", one_line(f"{job.stage[:1].upper()}{job.stage[1:]} …", 200), cls="soft"))
        return
    spare = st.session_state.get("recovery", "")
    if spare:
        markup.show(markup.notice(
            "caution", f"The recovery key lies in {one_line(spare, 300)}.",
            "Take it away from this machine now. Whoever has it and its passphrase is a root.",
        ))  # fmt: skip
    then = (
        "Keep these root keys outside this workspace: `interlock log verify --root-key` checks the log against them."
        if spare else
        "Keep this root key outside this workspace: `interlock log verify --root-key` checks the log against it. Add "
        "a second root (`interlock operator add NAME --role root`), so that one lost key does not end it."
    )  # fmt: skip
    markup.show(markup.notice("good", "Set up.", then))
    for key in pins.pinned(session.console().workspace.path):
        markup.show(el("p", key, cls="mono"))
    if st.button("Open the queue", type="primary"):
        _leave()


def _leave() -> None:
    _job.clear()
    st.session_state.pop("founding", None)
    st.session_state.pop("recovery", None)
    st.rerun(scope="app")


def incomplete(workspace: Workspace) -> None:
    """On every page while a policy or a base model is missing: say so, and let the root go on."""
    if is_ready(workspace):
        return
    if _job and not _job[0].done:
        markup.show(markup.notice("muted", "Set-up is under way.", one_line(_job[0].stage, 200)))
        return
    missing = "A policy or the base of a model is missing, so the loop waits."
    markup.show(markup.notice("caution", "Set-up is not complete.", missing))
    with session.view() as view:
        person = session.person_in(view)
    if person is None or Role.ROOT not in person.roles or not is_local():
        return
    with (
        st.form("complete", border=False, clear_on_submit=True),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        passphrase = st.text_input("Passphrase of your key", type="password", autocomplete="off", width=260)
        if not st.form_submit_button("Sign what is missing"):
            return
    try:
        key = PersonKey.load(workspace.people_keys / person.id, passphrase or "")
    except (DeniedError, InvalidInputError):
        markup.show(markup.notice("bad", "The passphrase was not accepted. Nothing was signed."))
        return
    start(workspace, key)
    st.rerun()


__all__ = ["frame", "incomplete", "is_founded", "page"]
