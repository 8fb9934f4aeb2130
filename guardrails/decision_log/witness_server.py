"""A witness over HTTP: C2SP tlog-witness ``POST /add-checkpoint``, and the last note it cosigned.

    POST /add-checkpoint            200 cosignature · 400 403 404 409 422 as the specification says
    GET  /latest/<sha256 of origin> the last cosigned checkpoint of a log, for auditors

Invariants:
- Requests are small, and short: 64 KiB, 30 seconds, so many at once; what is over is refused or cut off.
- Nothing of a request is written anywhere but the checkpoint that was cosigned; no answer shows a path.
- It listens where it was told to and asks nobody anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from guardrails.decision_log.witness import BROKEN, MAX_REQUEST_BYTES, Witness
from guardrails.errors import InterlockError, UsageError

MAX_CONNECTIONS = 32
DEADLINE_S = 30.0
IDLE_S = 10.0
_OUT_OF_ORDER = "this witness cannot read or write its state; whoever keeps it was told\n"


class WitnessServer(ThreadingHTTPServer):
    """Serves one witness until ``shutdown``."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], witness: Witness, tell: Callable[[str], None]) -> None:
        self.witness = witness
        self.tell = tell
        self.free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__(address, _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen on {address[0]}:{address[1]}: {error}") from None

    def process_request(self, request: object, client_address: object) -> None:
        """Start a thread for a connection, or close it where there are too many."""
        if not self.free.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]
        except BaseException:
            self.free.release()
            raise

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Serve a connection, and free its place."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self.free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Tell of an error of our own; a connection that broke is the other side's business."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.tell(f"a request failed: {type(error).__name__}: {error!s:.200}")


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    protocol_version = "HTTP/1.1"
    server_version = "interlock-witness"
    sys_version = ""
    timeout = IDLE_S

    def setup(self) -> None:
        """Give the whole connection a deadline: a client that drips bytes holds a place no longer."""
        super().setup()
        self._deadline = threading.Timer(DEADLINE_S, self._cut)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        """Take the deadline back."""
        self._deadline.cancel()
        super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_POST(self) -> None:
        """``/add-checkpoint``."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            self._answer(411, "Content-Length is needed\n", close=True)
        elif len(length) > 9 or int(length) > MAX_REQUEST_BYTES:
            self._answer(413, f"at most {MAX_REQUEST_BYTES} bytes\n", close=True)
        elif self.path != "/add-checkpoint":
            self._answer(404, "there is only /add-checkpoint\n", close=True)
        else:
            body = self.rfile.read(int(length))
            answer = self.server.witness.add_checkpoint(body)
            # Why a witness itself fails is for who keeps it, not for who asks: it names files.
            is_broken = answer.status == BROKEN
            self.server.tell(
                f"add-checkpoint: {answer.status}" + (f": {answer.body.strip()}" if is_broken else "")
            )
            self._answer(answer.status, _OUT_OF_ORDER if is_broken else answer.body, answer.kind)

    def do_GET(self) -> None:
        """``/latest/<sha256 of origin>``."""
        wanted = self.path.removeprefix("/latest/")
        for key in self.server.witness.logs:
            if hashlib.sha256(key.name.encode()).hexdigest() == wanted:
                try:
                    note = self.server.witness.latest(key.name)
                except InterlockError as error:
                    self.server.tell(f"latest: {BROKEN}: {error.message}")
                    self._answer(BROKEN, _OUT_OF_ORDER)
                    return
                if note:
                    self._answer(200, note)
                    return
        self._answer(404, "nothing was cosigned of that log\n")

    def _answer(
        self, status: int, body: str, kind: str = "text/plain; charset=utf-8", *, close: bool = False
    ) -> None:
        data = body.encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing: what clients send does not belong on a terminal."""
