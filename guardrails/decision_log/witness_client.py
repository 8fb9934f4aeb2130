"""Asking a witness for its cosignature, and keeping it.

Invariants:
- Only the address that the user configured is asked: no redirect is followed, no proxy is used.
- What comes back counts only after it verifies under the key that the user configured.
- A witness that has seen more, or something else, is an alarm (``LogVerificationError``), not a failed try.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.message import Message
from typing import IO

from guardrails.decision_log import checkpoint as checkpoints
from guardrails.decision_log.cosignature import Cosignature, VerifierKey, cosignatures
from guardrails.decision_log.proof import ConsistencyProof
from guardrails.decision_log.store import Log, Snapshot
from guardrails.errors import InterlockError, LogVerificationError, RecordError

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True)
class WitnessAddress:
    """Where a witness is asked, and the key that its answers must verify under."""

    url: str
    key: VerifierKey


def ask(log: Log, witness: WitnessAddress) -> Cosignature:
    """Have the newest checkpoint cosigned, and keep the cosignature beside it.

    Raises:
        InterlockError: the witness cannot be reached, or refuses.
        LogVerificationError: the witness has seen a longer log, or another one.
    """
    with log.read() as snapshot:
        kept = [item.size for note in snapshot.notes() for item in cosignatures(note, [witness.key])]
        request = _request(snapshot, max(kept, default=0))
        status, kind, body = _post(witness.url, request)
        if status == 409 and kind == "text/x.tlog.size":
            seen = _size(body, witness)
            if seen > snapshot.size or seen == request.old:
                raise LogVerificationError(
                    f"witness {witness.key.name} has cosigned another history: {seen} records",
                    hint="somebody has forked or cut this log; compare with a backup before going on",
                )
            request = _request(snapshot, seen)
            status, kind, body = _post(witness.url, request)
    if status in (409, 422):
        raise LogVerificationError(
            f"witness {witness.key.name} does not accept that this log only grew: {body[:200]!r}",
            hint="somebody has forked or cut this log; compare with a backup before going on",
        )
    if status != 200:
        raise InterlockError(f"witness {witness.key.name} refuses with status {status}: {body[:200]!r}")
    return accept(log, request.note, body, witness.key)


def accept(log: Log, note: str, lines: str, key: VerifierKey) -> Cosignature:
    """Keep what a witness answered, after verifying it; raises LogVerificationError if it does not hold."""
    try:
        found = cosignatures(note + lines, [key])
    except LogVerificationError as error:
        raise LogVerificationError(
            f"the answer of witness {key.name} does not hold: {error.reason}"
        ) from None
    if not found:
        raise LogVerificationError(f"the answer is not signed by witness {key.name}")
    head, signatures = checkpoints.parse(note + lines)
    texts = (note + lines).rpartition("\n\n")[2][:-1].split("\n")
    own = [t for t, s in zip(texts, signatures, strict=True) if (s.name, s.key_id) == (key.name, key.key_id)]
    with log.read() as snapshot:
        if head.origin != snapshot.origin or head != checkpoints.parse(snapshot.checkpoint(head.size))[0]:
            raise LogVerificationError("the cosigned checkpoint is not one of this log")
    log.keep_cosignature(head.size, key.name, own[-1] + "\n")
    return found[0]


def fetch_latest(url: str, origin: str) -> str:
    """The last checkpoint that a witness cosigned of a log; raises InterlockError if it says nothing."""
    address = f"{url.rstrip('/')}/latest/{hashlib.sha256(origin.encode()).hexdigest()}"
    status, _, body = _send(urllib.request.Request(_checked(address)))  # noqa: S310 - the scheme is checked
    if status != 200:
        raise InterlockError(f"{url}: the witness has cosigned nothing of this log (status {status})")
    return body


def _request(snapshot: Snapshot, old: int) -> ConsistencyProof:
    return ConsistencyProof(old, tuple(snapshot.consistency_proof(old)), snapshot.checkpoint())


def _size(body: str, witness: WitnessAddress) -> int:
    text = body.removesuffix("\n")
    if not (text.isascii() and text.isdigit() and len(text) < 17):
        raise InterlockError(f"witness {witness.key.name} answers what is no size: {body[:80]!r}")
    return int(text)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _checked(url: str) -> str:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise RecordError(f"a witness is asked over http or https, not at {url!r:.120}")
    return url


def _post(url: str, request: ConsistencyProof) -> tuple[int, str, str]:
    address = _checked(f"{url.rstrip('/')}/add-checkpoint")
    data = request.encode().encode("utf-8")
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "interlock"}
    return _send(urllib.request.Request(address, data=data, headers=headers, method="POST"))  # noqa: S310


def _send(request: urllib.request.Request) -> tuple[int, str, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, _kind(answer.headers), _text(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _kind(error.headers), _text(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InterlockError(f"the witness at {request.full_url} cannot be asked: {reason}") from None


def _kind(headers: Message) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip()


def _text(answer: IO[bytes]) -> str:
    data = answer.read(MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise InterlockError("the witness answers more than any cosignature needs")
    return data.decode("utf-8", "replace")
