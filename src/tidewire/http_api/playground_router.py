"""The playground: a page with two clients, whose cables can be cut, and the calls that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, Response
from starlette.websockets import WebSocket

from tidewire.engine.node import Node
from tidewire.http_api.api_router import api_router
from tidewire.http_api.fault_calls import FaultCalls
from tidewire.http_api.page_files import UI, add_page
from tidewire.http_api.recovery_trial import note_address
from tidewire.rules.base import Authority, Identity
from tidewire.sessions.centrifuge.websocket_route import serve_websocket
from tidewire.sessions.origins import Origins

__all__ = ("playground_router",)

_SCRIPTS = ("main", "client", "account", "view")


def playground_router(
    node: Callable[[], Node],
    calls: Callable[[], FaultCalls],
    authority: Callable[[], Authority],
    *,
    allowed: Any,
    prefix: str,
    pages: Iterable[tuple[str, str]],
    suggested: Callable[[], list[tuple[str, Any]]],
) -> APIRouter:
    """Make the routes; `allowed` is the dependency of each: of the page, of its calls, and of its two clients.

    `suggested` returns channels, each with an example of its messages.
    """
    router = APIRouter(prefix=prefix, include_in_schema=False, dependencies=[allowed])
    files = ("css/playground.css", "js/admin/api.js", *(f"js/playground/{name}.js" for name in _SCRIPTS))
    add_page(router, "playground.html", files, pages=pages, guards=[], data=suggested)

    @router.websocket("/connection")
    async def client(websocket: WebSocket) -> None:
        await serve_websocket(node(), authority(), websocket, origins=Origins(), identity=_chosen(websocket))

    @router.get("/tidewire.js")
    async def module() -> Response:
        return FileResponse(UI / "tidewire.js", media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    api = api_router(calls, key="", insecure=True, prefix="/api", methods=FaultCalls.methods)
    router.include_router(api, dependencies=[Depends(note_address)])
    return router


def _chosen(connection: HTTPConnection) -> Identity | None:
    """Return the user that the address names: a developer may connect as anybody."""
    user = connection.query_params.get("user", "")
    return Identity(user) if user else None
