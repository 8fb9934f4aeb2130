"""ui.console.middleware: security headers on every answer; foreign hosts and origins get none."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from ui.console.middleware import SecurityMiddleware, fixed_headers, hostname_of


async def _page(request: Request) -> Response:
    return PlainTextResponse("page", headers={"server": "x", "x-frame-options": "ALLOWALL"})


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("open")
    await socket.close()


def client(host: str = "127.0.0.1:8700", hosts: tuple[str, ...] = ()) -> TestClient:
    routes = [Route("/{path:path}", _page, methods=["GET", "POST"]), WebSocketRoute("/stream", _socket)]
    return TestClient(SecurityMiddleware(Starlette(routes=routes), hosts), base_url=f"http://{host}")


@pytest.mark.parametrize("path", ["/", "/proposal", "/_stcore/health", "/_stcore/metrics"])
def test_every_answer_carries_the_headers(path: str) -> None:
    response = client().get(path)
    for name, value in fixed_headers("127.0.0.1:8700").items():
        assert response.headers[name] == value
    assert "server" not in response.headers


def test_the_policy_lets_nothing_load_from_elsewhere() -> None:
    policy = client().get("/").headers["content-security-policy"]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'self'"
    assert rules["connect-src"] == "'self' ws://127.0.0.1:8700 wss://127.0.0.1:8700"
    assert rules["frame-ancestors"] == rules["object-src"] == "'none'"
    assert not any(
        wide in value.split() for value in rules.values() for wide in ("*", "http:", "https:", "ws:", "wss:")
    )
    assert "'unsafe-eval'" not in policy
    assert "'unsafe-inline'" not in rules["script-src"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8700", "localhost@evil.example", ""]
)
def test_other_hosts_are_refused(host: str) -> None:
    response = client().get("/", headers={"host": host})
    assert response.status_code == 421
    assert "page" not in response.text
    assert response.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8700", "127.0.0.1:9", "[::1]:8700"])
def test_loopback_names_are_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).text == "page"


def test_a_name_that_was_given_is_answered_and_no_other() -> None:
    named = client(hosts=("console.example",))
    assert named.get("/", headers={"host": "Console.Example:443"}).status_code == 200
    assert named.get("/", headers={"host": "other.example"}).status_code == 421


def test_foreign_origins_are_refused() -> None:
    assert client().get("/", headers={"origin": "http://evil.example"}).status_code == 403
    assert client().get("/", headers={"origin": "null"}).status_code == 403
    assert client().get("/", headers={"origin": "http://127.0.0.1:8701"}).status_code == 403
    assert client().get("/", headers={"origin": "http://127.0.0.1:8700"}).status_code == 200


def test_what_changes_something_needs_an_origin() -> None:
    assert client().post("/x").status_code == 403
    assert client().post("/x", headers={"origin": "http://127.0.0.1:8700"}).text == "page"


def test_a_websocket_needs_our_origin() -> None:
    with client().websocket_connect(
        "/stream", headers={"origin": "http://127.0.0.1:8700", "host": "127.0.0.1:8700"}
    ) as socket:
        assert socket.receive_text() == "open"
    for headers in (
        {},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8700", "host": "evil.example"},
    ):
        with (
            pytest.raises(WebSocketDisconnect) as refused,
            client().websocket_connect("/stream", headers={"host": "127.0.0.1:8700", **headers}),
        ):
            pass
        assert refused.value.code == 1008


@pytest.mark.parametrize(
    "path",
    [
        "/_stcore/metrics",
        "//_stcore//metrics",
        "/_stcore/upload_file/1/2",
        "/component/x/y",
        "/_stcore/agent/run",
    ],
)
def test_unused_parts_are_closed(path: str) -> None:
    response = client().get(f"http://127.0.0.1:8700{path}")
    assert response.status_code == 404
    assert "page" not in response.text


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a.b:1", "a.b"),
        ("[::1]:80", "::1"),
        ("a/b", ""),
        ("a:b", ""),
        ("u@a", ""),
        ("a\\b", ""),
        ("", ""),
        ("a?x", ""),
    ],
)
def test_hostname_of(header: str, name: str) -> None:
    assert hostname_of(header) == name


def test_the_queue_by_its_name_is_the_first_page() -> None:
    answer = client().get("/queue?v=Blocked", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "./?v=Blocked")
    assert answer.headers["x-frame-options"] == "DENY"
    assert str(client().get("/queue").url).endswith(":8700/")
    assert client().get("/queue", headers={"host": "evil.example"}, follow_redirects=False).status_code == 421
