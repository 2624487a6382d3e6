"""`GET /metrics`: the figures of all nodes for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from tidewire.observe.metrics import exposition
from tidewire.observe.reports import Reports

__all__ = ("metrics_router",)


def metrics_router(reports: Callable[[], Reports], *, allowed: Any, path: str) -> APIRouter:
    """Make the route; `allowed` is a dependency, and `reports` is asked when a request comes.

    Nodes of other machines are scraped there: one scrape is of all workers of this one. Raises ConfigurationError
    without prometheus-client.
    """
    exposition("")
    router = APIRouter(dependencies=[allowed])

    @router.get(path, include_in_schema=False)
    async def metrics(request: Request) -> Response:
        write, content_type = exposition(request.headers.get("accept", ""))
        found = await reports().all()
        own = [report for report in found if report.host == found[0].host]
        return Response(write(own), media_type=content_type, headers={"Cache-Control": "no-store"})

    return router
