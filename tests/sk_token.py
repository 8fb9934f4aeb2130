"""A hardware key made of software, which the real ``ssh-keygen`` and ``ssh-sk-helper`` enrol with and sign by.

They load ``sk_middleware.c``, built here, and it asks the token over a socket. The token does what a real one does
(PROTOCOL.u2f): private keys never leave it, a handle is worth nothing without it, and its signature covers what it
says of touch, PIN and counter.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import socketserver
import struct
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ED25519 = 1
PRESENT, VERIFIED = 0x01, 0x04
UNSUPPORTED, PIN_REQUIRED = b"\2", b"\3"
PIN = "271828"
# What ssh-keygen says that was built without hardware keys, has no ssh-sk-helper, or knows another sk-api.
NO_SUPPORT = ("unknown key type", " unusable: ", "unsupported version")


class Token:
    """One token in somebody's hand, as a context; ``touched`` says what the hand does when the token blinks."""

    def __init__(self) -> None:
        self.touched = True
        self.counter = 0
        self._secret = os.urandom(32)
        self._folder = tempfile.TemporaryDirectory(prefix="sk-")
        self._library = _built(Path(self._folder.name))
        self._askpass = Path(self._folder.name) / "askpass"
        self._askpass.write_text(f"#!/bin/sh\necho {PIN}\n")
        self._askpass.chmod(0o700)
        token = self

        class Call(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(token._answer(self.rfile))

        self._server = socketserver.ThreadingUnixStreamServer(f"{self._folder.name}/socket", Call)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Token:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._folder.cleanup()

    def enrol(self, path: Path, *options: str) -> None:
        """``ssh-keygen -t ed25519-sk``: files PATH and PATH.pub; the test is skipped where it cannot do that."""
        words = [word for option in options for word in ("-O", option)]
        made = self._ssh_keygen("-t", "ed25519-sk", *words, "-N", "", "-C", "token", "-f", str(path))
        if made.returncode and any(text in made.stderr for text in NO_SUPPORT):
            pytest.skip(f"ssh-keygen cannot make keys in this token: {made.stderr.strip()[-200:]}")
        assert made.returncode == 0, made.stderr

    def sign(self, key: Path, file: Path, namespace: str = "interlock-decision") -> Path:
        """``ssh-keygen -Y sign``; the path of the signature."""
        made = self._ssh_keygen("-Y", "sign", "-n", namespace, "-f", str(key), str(file))
        assert made.returncode == 0, made.stderr
        return file.with_name(f"{file.name}.sig")

    def _ssh_keygen(self, *words: str) -> subprocess.CompletedProcess[str]:
        env: Mapping[str, str] = {
            **os.environ,
            "SSH_SK_PROVIDER": str(self._library),
            "INTERLOCK_TEST_TOKEN": f"{self._folder.name}/socket",
            "SSH_ASKPASS": str(self._askpass),
            "SSH_ASKPASS_REQUIRE": "force",
        }
        return subprocess.run(
            ["ssh-keygen", "-q", *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    # --- the token's side ----------------------------------------------------------------------

    def _answer(self, call: Any) -> bytes:
        what, algorithm, flags = struct.unpack(">cIB", call.read(6))
        application, handle, data, pin = (call.read(*struct.unpack(">I", call.read(4))) for _ in range(4))
        if algorithm != ED25519:
            return UNSUPPORTED
        if flags & VERIFIED and pin.decode() != PIN:
            return PIN_REQUIRED
        if what == b"E":
            handle = os.urandom(32)
            return (
                b"\0"
                + _string(self._key(application, handle).public_key().public_bytes_raw())
                + _string(handle)
            )
        self.counter += 1
        state = struct.pack(">BI", flags & VERIFIED | (flags & PRESENT and self.touched), self.counter)
        covered = hashlib.sha256(application).digest() + state + hashlib.sha256(data).digest()
        return b"\0" + state + _string(self._key(application, handle).sign(covered))

    def _key(self, application: bytes, handle: bytes) -> Ed25519PrivateKey:
        seed = hmac.digest(self._secret, hashlib.sha256(application).digest() + handle, "sha256")
        return Ed25519PrivateKey.from_private_bytes(seed)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _built(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the library through which ssh-keygen asks a hardware key")
    library = folder / "sk_middleware.so"
    source = Path(__file__).with_name("sk_middleware.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True
    )
    return library
