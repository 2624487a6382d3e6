"""Every route that shows or does something of the system, by every HTTP method: nothing for those without the right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from starlette.requests import HTTPConnection

from helpers.hubs import run, serving
from tidewire import Hub
from tidewire.observe.guards import comes_from_this_machine
from tidewire.server.app import create_app
from tidewire.server.settings import Settings

KEY = "the-key-of-the-api"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
#: What a stranger may be answered: refused, no such route or method, nothing of a file that is not there.
REFUSED = {400, 401, 403, 404, 405}
SHOWN = (b'"node', b"tidewire_", b'"result"', b'"offset"', b"pause")


def may(connection: HTTPConnection) -> str | None:
    return connection.cookies.get("session")


def may_not(connection: HTTPConnection) -> str:
    raise HTTPException(403)


def paths(router: APIRouter, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return every path of a router, also of those that it includes."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(router)
    found: list[str] = []
    for route in app.routes:
        inner = route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else (route,)
        found += [str(one.path).replace("{path:path}", "js/admin/main.js") for one in inner]
    return [path for path in found if path not in without]


async def ask_all(client: httpx.AsyncClient, asked: list[str], headers: dict[str, str]) -> None:
    """Ask each path by each method, with a body that would do something; nobody without the right is answered."""
    for path in asked:
        # the calls of the API are all made by one function: for them, those that do something, and one that does not
        for method in METHODS if "/api/" not in path else ("GET", "POST"):
            body = None if method in ("GET", "HEAD", "TRACE") else b'{"channel": "secret", "data": 1, "user": "ann"}'
            answer = await client.request(method, path, content=body, headers=headers)
            assert answer.status_code in REFUSED, (method, path, headers, answer.status_code)
            assert not any(word in answer.content for word in SHOWN), (method, path, answer.text)


STRANGERS: list[tuple[Callable[..., Any] | None, dict[str, str]]] = [
    (None, {"x-forwarded-for": "192.0.2.1"}),
    (None, {"host": "chat.example.org"}),
    (None, {"host": "[::1]evil.example"}),
    (None, {"host": "localhost:80:evil.example"}),
    (None, {"origin": "https://evil.example"}),
    (None, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}),
    (may, {}),
    (may, {"x-api-key": KEY}),
    (may_not, {"cookie": "session=root"}),
    (may, {"cookie": "session=root", "origin": "https://evil.example"}),
    (may, {"cookie": "session=root", "origin": "https://app.example.org"}),
    (may, {"cookie": "session=root", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}),
]


@pytest.mark.parametrize(("user", "headers"), STRANGERS)
def test_a_strangers_request_is_refused_on_every_route(
    user: Callable[..., Any] | None, headers: dict[str, str]
) -> None:
    hub = Hub(origins=["https://app.example.org"])
    app = FastAPI(lifespan=hub.lifespan)
    admin, metrics = hub.admin_router(user=user), hub.metrics_router(user=user)
    app.include_router(admin)
    app.include_router(metrics)
    is_own_page = headers.get("origin") == "https://app.example.org"  # it may read metrics, by the hub's origins

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            found = paths(admin) + ([] if is_own_page else paths(metrics))
            assert {"/admin", "/admin/live", "/admin/api", "/admin/api/status", "/admin/api/disconnect"} <= set(found)
            assert len(found) > 20
            await ask_all(client, found, headers)
            assert (await hub.history("secret")).publications == ()

    run(main())


@pytest.mark.parametrize(
    ("hosts", "is_here"),
    [
        (["LOCALHOST:8000"], True),
        (["[::1]:8000"], True),
        (["127.0.0.1"], True),
        ([""], True),
        ([], True),
        (["127.0.0.1", "evil.example"], False),
        (["127.0.0.1.evil.example"], False),
        (["127.0.0.1@evil.example"], False),
        (["[::1"], False),
    ],
)
def test_only_a_loopback_host_is_this_machine(hosts: list[str], is_here: bool) -> None:
    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "http_version": "1.1", "client": ("127.0.0.1", 1), "headers": headers}
    assert comes_from_this_machine(HTTPConnection(scope)) is is_here


def test_a_server_for_others_answers_for_its_key_alone(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = create_app(Settings(host="0.0.0.0", broker="memory://", http_api={"key": KEY}))  # type: ignore[arg-type]
    hub: Hub = app.state.hub

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            # the page itself has no data: it asks for the key
            page = ("/admin", "/admin/ui/js/admin/main.js")
            found = [*paths(hub.admin_router(), without=page), "/metrics"]
            assert "/admin/live" in found
            for headers in ({}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}):
                await ask_all(client, found, headers)
            right = {"x-api-key": KEY}
            assert (await client.post("/admin/api/status", json={}, headers=right)).status_code == 200
            assert (await client.get("/metrics", headers=right)).status_code == 200
            await ask_all(client, found, {**right, "origin": "https://evil.example"})

    run(main())
