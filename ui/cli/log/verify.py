"""Verifying: the log of a workspace, an exported bundle, or the proof of one record.

Invariants: exit status 7 unless every check that was made held; what was not checked is said; a bundle or a
proof needs no workspace, no key and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.canonical import Digest
from guardrails.errors import LogVerificationError, RecordError, UsageError
from ui import pins, presenters
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.output import line, pairs
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.cosignature import VerifierKey
    from guardrails.decision_log.store import Log
    from guardrails.decision_log.verify import Verification
    from guardrails.registry import ArtifactStore

_FILE = click.Path(path_type=Path)


@add(
    log,
    "verify",
    help="Check every record, signature, checkpoint, table and artifact; exit status 7 if one fails.",
)
@click.option("--recompute", is_flag=True, help="Run the engine again on every verdict, and compare.")
@click.option(
    "--root-key",
    "root_keys",
    multiple=True,
    metavar="KEY|FILE",
    help="A root's OpenSSH public key that you were handed, or a file of them; each must have signed the first roster.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A checkpoint kept from before, or fetched from a witness.",
)
@click.option(
    "--witness-key",
    "witness_keys",
    multiple=True,
    metavar="KEY|FILE",
    help="The verifier key of a witness: it must have cosigned every record.",
)
@click.option(
    "--witness-threshold",
    type=click.IntRange(min=1),
    metavar="N",
    help="So many of the witnesses suffice [all].",
)
@click.option(
    "--no-artifacts", is_flag=True, help="Do not read models and evidence (a copy of the log alone)."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=64),
    default=1,
    show_default=True,
    metavar="N",
    help="So many processes read records and verify signatures.",
)
@click.option(
    "--bundle", type=_FILE, metavar="FILE", help="Verify an exported bundle instead of a workspace."
)
@click.option("--proof", type=_FILE, metavar="FILE", help="Verify one proof instead (tlog-proof, or growth).")
@click.option("--record", type=_FILE, metavar="FILE", help="With --proof: the record that it is about.")
@click.option("--log-key", default="", metavar="KEY|FILE", help="With --proof: the log's verifier key.")
def verify(
    session: Session,
    recompute: bool,
    root_keys: tuple[str, ...],
    checkpoints: tuple[Path, ...],
    witness_keys: tuple[str, ...],
    witness_threshold: int | None,
    no_artifacts: bool,
    jobs: int,
    bundle: Path | None,
    proof: Path | None,
    record: Path | None,
    log_key: str,
) -> None:
    """Verify the log, a bundle or a proof."""
    witnesses = [verifier_key(given) for given in witness_keys]
    if witness_threshold is not None and witness_threshold > len(witnesses):
        raise UsageError(f"--witness-threshold {witness_threshold}, and {len(witnesses)} witness keys")
    if proof is not None:
        _proof(session, proof, record, log_key, checkpoints, witnesses, witness_threshold or len(witnesses))
        return
    if record is not None or log_key:
        raise UsageError("--record and --log-key belong to --proof")
    options: dict[str, Any] = {
        "root_pins": [key for given in root_keys for key in pins.read_keys(given)],
        "known_checkpoints": [text_of(path) for path in checkpoints],
        "witness_keys": witnesses,
        "witness_threshold": witness_threshold or 0,
        "jobs": jobs,
    }
    if bundle is not None:
        if recompute:
            raise UsageError("a bundle holds no evidence: --recompute needs a workspace")
        options["root_pins"] += pins.given()
        result = _of_bundle(bundle, options)
    else:
        result = verified(session, recompute=recompute, artifacts=not no_artifacts, **options)
    if not witnesses:
        result.notes.append(
            "no witness key was given: a log cut short, or another history, would not show"
            + ("" if checkpoints else " (nor was a checkpoint that somebody kept)")
        )
    result.notes += _dated_ahead(result.newest, session.now())
    _tell(session, result, recompute=recompute)


def _dated_ahead(newest: str, now: str) -> list[str]:
    from guardrails.decision_log.coverage import TOLERANCE
    from guardrails.decision_log.envelope import parse_time

    if not newest or parse_time(newest) <= parse_time(now) + TOLERANCE:
        return []
    return [f"the newest record states {newest}, which is still to come by the clock of this machine ({now})"]


def _tell(session: Session, result: Verification, *, recompute: bool) -> None:
    witnesses = _witnesses(result)
    data = {
        "ok": result.ok,
        "entries": result.entries,
        "root": result.root,
        "first_error": None if result.ok else {"index": result.index, "reason": result.reason},
        "root_keys": list(result.root_keys),
        "recomputed": result.recomputed,
        "not_recomputed": result.not_recomputed,
        "texts": {"kept": result.texts.kept, "erased": result.texts.erased, "missing": result.texts.missing},
        "witnesses": witnesses,
        "notes": list(result.notes),
    }

    def draw(console: Console) -> None:
        if result.ok:
            what = f"The log holds: {presenters.counted(result.entries, 'record')}"
            console.print(line(presenters.Mark("✓", what, "good")))
        else:
            where = (
                "The log does not hold" if result.index is None else f"Record {result.index} does not hold"
            )
            console.print(line(presenters.Mark("✕", f"{where}: {result.reason}", "bad")), soft_wrap=True)
        items = [("root", result.root or "–"), *(("root key", key) for key in result.root_keys)]
        if recompute:
            told = f"{presenters.counted(result.recomputed, 'verdict')}, {result.not_recomputed} not"
            items.append(("recomputed", told))
        items += [
            ("witness", f"{one['witness']} saw {one['size']} records at {one['time']}") for one in witnesses
        ]
        texts = result.texts
        items.append(
            (
                "texts",
                f"{texts.kept} kept, {texts.erased} erased by a record, {texts.missing} missing without one",
            )
        )
        items += [("note", note) for note in result.notes]
        console.print(pairs(items))

    session.output.result("log verify", data, draw)
    if not result.ok:
        raise Finished(LogVerificationError.exit_status)


def _witnesses(result: Verification) -> list[dict[str, Any]]:
    from guardrails.decision_log.envelope import format_time

    if result.coverage is None:
        return []
    return [
        {"witness": one.witness, "size": one.size, "time": format_time(one.moment)}
        for one in result.coverage.newest()
    ]


def verified(
    session: Session, *, recompute: bool = False, artifacts: bool = True, **options: Any
) -> Verification:
    """Verify the whole log; a database too damaged to be read is a failure like any other."""
    from guardrails.decision_log.verify import Verification
    from guardrails.ledger.judging import recomputer

    store = session.workspace.store
    options["root_pins"] = [*options.get("root_pins", ()), *pins.pinned(session.workspace.path)]
    try:
        opened = session.workspace.log
    except LogVerificationError as error:  # already its first record is not the pinned roots'
        return Verification(index=error.index if error.index >= 0 else None, reason=error.reason)
    return _verified(
        opened,
        artifacts=(lambda address: check_artifact(store, address)) if artifacts else None,
        statements=store.get_bytes if artifacts else None,
        recompute=recomputer(store) if recompute else None,
        **options,
    )


def _of_bundle(path: Path, options: dict[str, Any]) -> Verification:
    from guardrails.decision_log import bundle
    from guardrails.decision_log.verify import Verification

    try:
        with bundle.opened(path) as laid_out:
            return verified_bundle(laid_out, **options)
    except LogVerificationError as error:
        return Verification(index=error.index if error.index >= 0 else None, reason=error.reason)


def verified_bundle(laid_out: Log, **options: Any) -> Verification:
    """Verify a log that was laid out from a bundle: it brings no tables, and nothing else of it is believed."""
    return _verified(laid_out, compare_tables=False, **options)


def _verified(log_: Log, **options: Any) -> Verification:
    from guardrails.decision_log.verify import Verification, verify_log
    from guardrails.ledger import project
    from guardrails.ledger.deadlines import expiry_of

    try:
        with log_.read() as snapshot:
            return verify_log(snapshot, project, expiry=expiry_of, **options)
    except LogVerificationError as error:
        return Verification(index=error.index if error.index >= 0 else None, reason=error.reason)


def check_artifact(store: ArtifactStore, address: Digest) -> None:
    """Raise unless an artifact is present and intact: a tree with all of its files, or a blob."""
    from guardrails.registry import decode_manifest

    data = store.get_bytes(address)
    try:
        decode_manifest(data)
    except RecordError:
        return
    store.verify_tree(address)


def _proof(
    session: Session, path: Path, record: Path | None, log_key: str, kept: Sequence[Path],
    witnesses: Sequence[VerifierKey], threshold: int,
) -> None:  # fmt: skip
    from guardrails.decision_log import proof as proofs
    from guardrails.decision_log.coverage import measure, require

    if not log_key:
        raise UsageError(
            "--proof needs the log's key", hint="--log-key KEY, as `interlock log checkpoint --json` names it"
        )
    key, text = verifier_key(log_key), text_of(path)
    shown: dict[str, Any] = {"ok": True, "first_error": None}
    try:
        if text.startswith(proofs.HEADER):
            if record is None:
                raise UsageError("a proof is about one record: --record FILE, its exact bytes")
            proof = proofs.InclusionProof.parse(text)
            proved = proofs.verify_inclusion(proof, _bytes_of(record), key)
            shown |= {"seq": proof.index}
            note = proof.note
        else:
            if not kept:
                raise UsageError("a proof of growth begins at a checkpoint that was kept: --checkpoint FILE")
            growth = proofs.ConsistencyProof.parse(text)
            for earlier in kept:
                proved = proofs.verify_consistency(growth, text_of(earlier), key)
            shown |= {"from": growth.old}
            note = growth.note
        shown |= {"entries": proved.head.size, "root": proved.head.root}
        if witnesses:
            coverage = measure([note], witnesses, threshold)
            require(coverage, proved.head.size)
            shown |= {"witnesses": [{"witness": one.witness, "time": one.time} for one in coverage.newest()]}
    except (LogVerificationError, RecordError) as error:
        reason = error.reason if isinstance(error, LogVerificationError) else error.message
        shown |= {"ok": False, "first_error": {"index": None, "reason": reason}}

    def draw(console: Console) -> None:
        if shown["ok"]:
            what = (
                f"record {shown['seq']} is in"
                if "seq" in shown
                else f"from {shown['from']} records it only grew to"
            )
            told = f"The proof holds: {what} the log of {shown['entries']} records"
            console.print(line(presenters.Mark("✓", told, "good")))
            console.print(pairs([("root", shown["root"]), ("log", key.name)]))
        else:
            told = f"The proof does not hold: {shown['first_error']['reason']}"
            console.print(line(presenters.Mark("✕", told, "bad")), soft_wrap=True)

    session.output.result("log verify", shown, draw)
    if not shown["ok"]:
        raise Finished(LogVerificationError.exit_status)


# --- what is given on the command line -------------------------------------------------------


def verifier_key(given: str) -> VerifierKey:
    """A verifier key ``name+id+key``, given as text or as a file that holds it."""
    from guardrails.decision_log.cosignature import VerifierKey

    text = given if given.count("+") >= 2 and not Path(given).is_file() else text_of(Path(given))
    try:
        return VerifierKey.parse(text.strip())
    except RecordError as error:
        raise UsageError(error.message) from None


def text_of(path: Path) -> str:
    """The text of a file; raises UsageError where it cannot be read."""
    try:
        return _bytes_of(path).decode("utf-8")
    except UnicodeError:
        raise UsageError(f"{path} cannot be read: not text") from None


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
