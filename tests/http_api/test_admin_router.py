"""The admin page and its calls: for those who may administer, and nobody else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from starlette.requests import HTTPConnection

from helpers.hubs import run, serving
from tidewire import Hub
from tidewire.http_api.admin_router import _lines


def may(connection: HTTPConnection) -> str | None:
    cookie = connection.cookies.get("session")
    if cookie == "nobody":
        raise HTTPException(418)
    return cookie


@pytest.mark.parametrize(
    ("options", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"x-forwarded-for": "192.0.2.1"}, 403),
        ({}, {"host": "chat.example.org"}, 403),
        ({}, {"origin": "https://evil.example"}, 403),
        ({}, {"sec-fetch-site": "cross-site"}, 403),
        ({"user": may}, {}, 403),
        ({"user": may}, {"cookie": "session=nobody"}, 418),
        ({"user": may}, {"cookie": "session=ann"}, 200),
        ({"user": may}, {"cookie": "session=ann", "origin": "https://evil.example"}, 403),
        ({"user": may}, {"cookie": "session=ann", "origin": "https://app.example.org"}, 403),
        ({"user": may}, {"cookie": "session=ann", "sec-fetch-site": "cross-site"}, 403),
        ({"user": may}, {"cookie": "session=ann", "x-forwarded-for": "192.0.2.1"}, 200),
    ],
)
def test_nobody_sees_or_does_anything_without_the_right(
    options: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    # a page that may connect may not administer, with the cookies of one who may
    hub = Hub(origins=["https://app.example.org"])
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.admin_router(**options))

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            for method in ("status", "connection_list", "publish", "disconnect", "history_remove", "rpc", "batch"):
                answer = await client.post(f"/admin/api/{method}", json={}, headers=headers)
                assert answer.status_code == status, method
                assert (b"node" in answer.content) <= (status == 200)
            commands = await client.post("/admin/api", content=b'{"method":"info","params":{}}', headers=headers)
            assert commands.status_code == status
            if "sec-fetch-site" not in headers:
                page = await client.get("/admin", headers=headers)
                assert page.status_code == status
                assert (await client.get("/admin/ui/js/admin/main.js", headers=headers)).status_code == status

    run(main())


@pytest.mark.parametrize("page", ["admin", "playground", "asyncapi"])
def test_a_page_stands_under_any_prefix_with_its_own_policy(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    at = "/ops/live"
    routers = {
        "admin": lambda: hub.admin_router(prefix=at),
        "playground": lambda: hub.playground_router(prefix=at),
        "asyncapi": lambda: hub.asyncapi_router(path=at),
    }
    app.include_router(routers[page](), prefix="/internal")

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            shown = await client.get("/internal/ops/live")
            assert shown.status_code == 200, shown.text
            policy = shown.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'" in policy
            assert "unsafe" not in policy
            # relative, so that a proxy may take the front of the path away
            files = re.findall(r'(?:src|href)="([^"#]*/ui/[^"#]*)', shown.text)
            assert len(files) > 4
            for path in {*files, "live/ui/js/dom.js", "live/ui/css/base.css"}:
                assert path.startswith("live/ui/")
                assert (await client.get(f"/internal/ops/{path}")).status_code == 200, path
            for path in ("ui/chat.html", "ui/../app.py", f"ui/js/{page}/%2e%2e/main.js", "ui/"):
                assert (await client.get(f"/internal/ops/live/{path}")).status_code == 404, path
            assert (await client.head("/internal/ops/live")).status_code == 200
            assert "/internal/ops/live" not in (await client.get("/openapi.json")).text

    run(main())


def test_every_action_of_the_page_is_a_call() -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.admin_router())

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:

            async def call(method: str, **body: Any) -> Any:
                return (await client.post(f"/admin/api/{method}", json=body)).json()

            assert (await call("publish", channel="news", data={"a": 1}))["result"]["offset"] == 1
            assert len((await call("history", channel="news", limit=10))["result"]["publications"]) == 1
            await call("history_remove", channel="news")
            assert (await call("history", channel="news", limit=10))["result"]["publications"] == []
            assert (await call("why", user="ann", channel="news", action="publish"))["result"]["rule"] == "*"
            assert (await call("refusals"))["result"] == {"refusals": []}
            assert (await call("status"))["result"]["nodes"][0]["publications"] == 1

    run(main())


def test_a_name_on_the_page_ends_no_line_of_its_figures() -> None:
    async def main() -> None:
        async def rest() -> AsyncGenerator[bytes, None]:
            yield json.dumps(name, ensure_ascii=False).encode()

        name = "a\u2028b\x85c"
        lines = "".join([line.decode() async for line in _lines(json.dumps(name, ensure_ascii=False).encode(), rest())])
        assert [json.loads(line) for line in lines.splitlines()] == [name, name]

    run(main())
