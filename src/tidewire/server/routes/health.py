"""`GET /healthz` (the process answers) and `GET /readyz` (it can do its work)."""

from __future__ import annotations

from fastapi import APIRouter

__all__ = ("router",)

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}
