"""The admin page: its files, and the calls of the HTTP API for operators."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from tidewire.errors import CommandError, LimitExceeded
from tidewire.http_api.api_router import api_router
from tidewire.http_api.calls import Calls
from tidewire.http_api.nodes import Nodes
from tidewire.http_api.page_files import add_page
from tidewire.observe.shown_runs import RunPage
from tidewire.protocols.line_ends import one_line

__all__ = ("admin_router",)

_NOT_KEPT = {"Cache-Control": "no-store"}
#: A proxy hands each line on at once.
_LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
#: Seconds after which a page that looks asks again, so that a user who may no longer see it sees no more.
_LOOK_SECONDS = 30.0
_SCRIPTS = ("main", "api", "charts", "lists", "live", "form", "actions", "runs", "words")


def admin_router(
    calls: Callable[[], Calls],
    nodes: Callable[[], Nodes],
    types: Callable[[], dict[str, Any]],
    *,
    allowed: Any,
    page: Any | None,
    prefix: str,
    pages: Iterable[tuple[str, str]],
) -> APIRouter:
    """Make the routes. `allowed` is the dependency of the calls, and `page` that of the page (None: it has no data)."""
    router = APIRouter(prefix=prefix, include_in_schema=False)
    files = ("css/admin.css", *(f"js/admin/{name}.js" for name in _SCRIPTS))
    add_page(router, "admin.html", files, pages=pages, guards=[page] if page is not None else [])

    @router.get("/live", dependencies=[allowed])
    async def figures() -> Response:
        looking = nodes().live.look()
        try:
            first = await anext(looking, b"")
        except LimitExceeded as error:
            raise HTTPException(503, str(error), {"Retry-After": "5"}) from None
        return StreamingResponse(_lines(first, looking), media_type="application/x-ndjson", headers=_LIVE)

    @router.get("/types", dependencies=[allowed])
    async def describe() -> Response:
        return JSONResponse(types(), headers=_NOT_KEPT)

    _add_runs(router, nodes, allowed)
    # the dependency admits callers; a page of another site must not call with the cookies of one that is admitted
    api = api_router(calls, key="", insecure=True, prefix="/api")
    router.include_router(api, dependencies=[allowed], include_in_schema=False)
    return router


def _add_runs(router: APIRouter, nodes: Callable[[], Nodes], allowed: Any) -> None:
    """Add the runs of pipelines, if this process has any."""

    @router.get("/runs", dependencies=[allowed])
    async def runs(
        search: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=0, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> Response:
        shown = nodes().runs
        page = RunPage(0, []) if shown is None else await shown.page(search, limit, offset)
        return Response(msgspec.json.encode(page), media_type="application/json", headers=_NOT_KEPT)

    @router.post("/runs/{run}/cancel", dependencies=[allowed])
    async def cancel(run: str) -> Response:
        shown = nodes().runs
        if shown is None:
            raise HTTPException(404, "this application has no pipelines")
        try:
            await shown.cancel(run)
        except CommandError as error:
            raise HTTPException(409, str(error)) from None
        return JSONResponse({}, headers=_NOT_KEPT)


async def _lines(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    until = time.monotonic() + _LOOK_SECONDS
    async with aclosing(rest):
        yield one_line(first) + b"\n"
        async for line in rest:
            yield one_line(line) + b"\n"
            if time.monotonic() >= until:
                return
