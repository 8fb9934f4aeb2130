"""``python -m ui.console.serve --workspace DIR --port P``: the console's server, in the foreground.

Invariants:
- It listens on loopback unless told otherwise, and answers only to host names that it was given.
- What protects a visitor is set here, above every configuration file and environment variable.
- A busy port is an error: another port would be another origin than the one that was printed.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.errors import InterlockError, UsageError
from ui.console.middleware import LOOPBACK_HOSTS, SecurityMiddleware
from ui.wiring import open_workspace

if TYPE_CHECKING:
    from streamlit.starlette import App

SCRIPT = Path(__file__).parent / "app.py"

SETTINGS: dict[str, Any] = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "server.headless": True,
    "server.enableAgentApi": False,
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 1,
    "global.developmentMode": False,
}
"""Streamlit's settings that no file may change: nothing phones home, errors show no code."""


def build_app(workspace: Path, hosts: Iterable[str] = ()) -> App:
    """The ASGI application for one workspace; one a process.

    Raises:
        UsageError: there is no workspace, or its configuration cannot be used.
    """
    from starlette.middleware import Middleware
    from streamlit import config
    from streamlit.starlette import App
    from streamlit.web import bootstrap

    from ui.console import session
    from ui.console.views import champions, log, proposal, queue, setup  # noqa: F401 - ready before the first visitor

    opened = open_workspace(workspace)
    session.configure(opened)
    config._main_script_path = str(SCRIPT)
    bootstrap.load_config_options(SETTINGS)
    return App(SCRIPT, middleware=[Middleware(SecurityMiddleware, hosts=tuple(hosts))])


def serve(workspace: Path, port: int, host: str = "127.0.0.1", *, hosts: Iterable[str] = ()) -> None:
    """Serve the console until interrupted.

    Args:
        workspace: The workspace's directory.
        port: The TCP port; 0 takes a free one.
        host: The address to listen on.
        hosts: Further host names to answer to, for instance behind a proxy.
    """
    import uvicorn

    with _listen(host, port) as listener:
        names = {*hosts} if host in LOOPBACK_HOSTS or host in {"0.0.0.0", "::"} else {host, *hosts}  # noqa: S104
        app = build_app(workspace, names)
        own = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, date_header=True,
            # The address of a visitor is the socket's: set-up trusts loopback, so no header may claim it.
            proxy_headers=False, ws="auto", ws_max_size=1 << 20, timeout_graceful_shutdown=2,
        )  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        print(f"console: http://{shown}:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(own).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on a connection waits instead of being refused: the address is printed next.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason}", hint="choose another --port"
        ) from None
    return listener


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ui.console.serve", description="Serve Interlock's console."
    )
    parser.add_argument(
        "--workspace", type=Path, default=Path(os.environ.get("INTERLOCK_HOME", ".interlock"))
    )
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="answer to this name too"
    )
    options = parser.parse_args(argv)
    try:
        serve(options.workspace, options.port, options.host, hosts=options.allow_host)
    except InterlockError as error:
        print(f"console: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
