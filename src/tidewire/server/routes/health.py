"""`GET /healthz` (the process is alive) and `GET /readyz` (it can publish)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

__all__ = ("router",)

router: APIRouter = APIRouter(tags=["health"])


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz() -> dict[str, str]:
    """Return that the process is alive."""
    return {"status": "ok"}


@router.api_route("/readyz", methods=["GET", "HEAD"])
async def readyz(request: Request, response: Response) -> dict[str, str]:
    """Return whether the process can publish; 503 while its store is away."""
    if request.app.state.hub.degraded:
        response.status_code = 503
        return {"status": "degraded"}
    return {"status": "ok"}
