"""What every answer of the console carries, and which requests it does not answer at all.

Invariants:
- A request whose Host is not on the list is refused (a name that somebody else's DNS points at this
  machine is not on it), and so is a websocket, or any request that changes something, from another origin
  or, for a websocket, from none.
- A page can load scripts, styles, fonts and images from this server only, and connect to nothing else.
- No page of another origin can frame this one, and no address of it leaks to another site.
- Metrics, uploads, custom components and the agent interface are not part of the console: 404.

The first page has the address ``/``; ``/queue``, which is what anybody would type, leads there.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

CLOSED_PREFIXES = (
    "/_stcore/metrics", "/_stcore/upload_file", "/_stcore/agent", "/_stcore/bidi-components", "/component/",
)  # fmt: skip
"""Parts of Streamlit's server that the console does not use."""

QUEUE = "/queue"
POLICY_VIOLATION = 1008
WRONG_HOST = 421
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def content_security_policy(netloc: str) -> str:
    """The policy for a page served at ``netloc`` (host and port as the browser wrote them)."""
    return "; ".join((
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self' 'unsafe-inline'",
        "script-src 'self' 'wasm-unsafe-eval'",
        f"connect-src 'self' ws://{netloc} wss://{netloc}" if netloc else "connect-src 'self'",
        "worker-src 'self' blob:",
        "font-src 'self' data:",
        "form-action 'self'",
        "base-uri 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    ))  # fmt: skip


def fixed_headers(netloc: str) -> dict[str, str]:
    """The security headers of every answer."""
    return {
        "content-security-policy": content_security_policy(netloc),
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    }


class SecurityMiddleware:
    """Checks Host and Origin, closes what is not used, and adds the security headers."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = LOOPBACK_HOSTS | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal[1]})
                return
            await self._app(scope, receive, send)
            return
        netloc = Headers(scope=scope).get("host", "")
        protected = _with_headers(send, fixed_headers("" if refusal and refusal[0] == WRONG_HOST else netloc))
        answer: Response | None = None
        if refusal:
            answer = PlainTextResponse(refusal[1] + "\n", status_code=refusal[0])
        elif scope["path"] == QUEUE and scope["method"] in _SAFE_METHODS:
            query = scope["query_string"].decode("latin-1")
            # Relative: whatever path a proxy serves this below, it stays there.
            answer = RedirectResponse("./" + (f"?{query}" if query else ""), status_code=307)
        if answer is not None:
            await answer(scope, receive, protected)
            return
        await self._app(scope, receive, protected)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is not answered (status, sentence); None if it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or hostname_of(host) not in self._hosts:
            return WRONG_HOST, "this host name is not one that the console answers to"
        path = scope["path"]
        # Prefixes are compared after collapsing, so that //_stcore//metrics is the same path.
        if ("/" + "/".join(part for part in path.split("/") if part) + "/").startswith(CLOSED_PREFIXES):
            return 404, "not found"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return 403, "requests from other sites are not answered"
        if origin is None and scope["type"] == "websocket":
            return 403, "a websocket needs an origin"
        if origin is None and scope["method"] not in _SAFE_METHODS:
            return 403, "a request that changes something needs an origin"
        return None


def hostname_of(host: str) -> str:
    """The name in a Host header, lower case, without port and brackets; empty if it is not one."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    if parts.path or parts.query or parts.fragment or parts.username is not None or "\\" in host:
        return ""
    return parts.hostname or ""


def _netloc(origin: str) -> str:
    parts = urlsplit(origin)
    return parts.netloc.lower() if parts.scheme in {"http", "https"} else ""


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = MutableHeaders(scope=message)
            for name, value in headers.items():
                own[name] = value
            if "server" in own:
                del own["server"]
        await send(message)

    return wrapped
