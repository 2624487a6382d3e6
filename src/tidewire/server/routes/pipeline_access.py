"""`/api/pipelines` and `WS /pipeline/{sample_id}`, with access control."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response, WebSocket
from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection

from tidewire.errors import StoreUnavailable
from tidewire.pipelines.errors import PipelineError
from tidewire.pipelines.naming import check_sample
from tidewire.pipelines.routes import refuse
from tidewire.pipelines.routes import router as pipelines_router
from tidewire.pipelines.runs import RunStatus
from tidewire.pipelines.service import Pipelines
from tidewire.pipelines.viewers import STEPS
from tidewire.rules.base import Identity
from tidewire.server.login_tokens import InvalidToken, identify
from tidewire.server.loopback import is_local
from tidewire.server.pipeline_setup import default_pipeline
from tidewire.server.settings import Settings

__all__ = ("add_pipelines",)

_PREFIX = "/api/pipelines"
_COOKIE = "token"
_NOT_KEPT = {"Cache-Control": "no-store"}
_READING = ("GET", "HEAD")
_SAME_SITE = ("same-origin", "none")


def add_pipelines(app: FastAPI, settings: Settings, pipelines: Pipelines) -> None:
    """Serve pipelines; without a login only to connections from this machine."""
    door = _Door(app, settings, pipelines)
    app.include_router(pipelines_router(pipelines, authorize=door.identity), prefix=_PREFIX, include_in_schema=False)
    router = APIRouter()
    session = f"{_PREFIX}/session"
    router.add_api_route(session, door.open, methods=["POST"], include_in_schema=False)
    router.add_api_route(session, door.close, methods=["DELETE"], include_in_schema=False)
    router.add_api_websocket_route("/pipeline/{sample_id:path}", _Samples(settings, pipelines, door).serve)
    app.include_router(router)


class _Door:
    """Finds the identity of a connection: user "" for one from this machine, which sees all runs."""

    def __init__(self, app: FastAPI, settings: Settings, pipelines: Pipelines) -> None:
        self._app = app
        self._settings = settings
        self._pipelines = pipelines

    async def identity(self, connection: HTTPConnection) -> Identity:
        """Return the user with the session. Raises HTTPException, for a WebSocket WebSocketException."""
        self._check_origin(connection)
        if is_local(self._settings, connection):
            return Identity()
        return await self._named(connection, _token(connection))

    async def open(self, request: Request) -> Response:
        """Set the cookie that presents the token with downloads and WebSockets, where a page cannot set a header."""
        self._check_origin(request)
        token = _bearer(request)
        await self._named(request, token)
        response = Response(status_code=204, headers=_NOT_KEPT)
        is_tls = request.url.scheme == "https"
        response.set_cookie(_COOKIE, token, path=_PREFIX, secure=is_tls, httponly=True, samesite="strict")
        return response

    async def close(self, request: Request) -> Response:
        """Delete the cookie."""
        self._check_origin(request)
        response = Response(status_code=204, headers=_NOT_KEPT)
        response.delete_cookie(_COOKIE, path=_PREFIX, httponly=True, samesite="strict")
        return response

    def _check_origin(self, connection: HTTPConnection) -> None:
        if not self._pipelines.hub.origins.allows(connection):
            raise _refusal(connection, 403, "a page of this origin may not use this server")

    async def _named(self, connection: HTTPConnection, token: str) -> Identity:
        if not token:
            raise _refusal(connection, 401, "log in first: POST /login, then send its token as Authorization: Bearer")
        try:
            return (await identify(token, self._app.state.tokens, self._app.state.accounts)).identity
        except InvalidToken as error:
            raise _refusal(connection, 401, str(error)) from None
        except StoreUnavailable:
            raise _refusal(connection, 503, "the accounts cannot be read now; try again") from None


def _refusal(connection: HTTPConnection, status: int, text: str) -> Exception:
    if connection.scope["type"] == "websocket":
        return WebSocketException(1013 if status == 503 else 1008, text)
    headers = _NOT_KEPT | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    return HTTPException(status, text, headers)


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _token(connection: HTTPConnection) -> str:
    if token := _bearer(connection):
        return token
    is_socket = connection.scope["type"] == "websocket"
    if is_socket and "token" in connection.query_params:
        return connection.query_params["token"]
    # A browser sends the cookie for pages of other sites too: it counts only if the page is known to be ours.
    is_reading = not is_socket and connection.scope["method"] in _READING
    is_ours = "origin" in connection.headers or (
        is_reading and connection.headers.get("sec-fetch-site", "none") in _SAME_SITE
    )
    return connection.cookies.get(_COOKIE, "") if is_ours else ""


class _Samples:
    """The endpoint of the default pipeline."""

    def __init__(self, settings: Settings, pipelines: Pipelines, door: _Door) -> None:
        self._settings = settings
        self._pipelines = pipelines
        self._door = door

    async def serve(
        self, websocket: WebSocket, sample_id: str, pipeline: str = "", new: bool = False, resume: bool = False
    ) -> None:
        """Start or join the run of a sample, and send its progress."""
        identity = await self._door.identity(websocket)
        try:
            run = await self._find(sample_id, pipeline, identity.user, new=new, resume=resume)
        except PipelineError as error:
            await refuse(self._pipelines, websocket, error)
            return
        async with self._pipelines.hub.connect(websocket, user=identity, protocol=STEPS) as connection:
            await self._pipelines.watch_steps(connection, run)

    async def _find(self, sample: str, name: str, user: str, *, new: bool, resume: bool) -> str:
        check_sample(sample)
        pipelines = self._pipelines
        wanted = name or await asyncio.to_thread(default_pipeline, self._settings, pipelines, sample)
        newest = await pipelines.runs(pipeline=wanted, sample=sample, user=user, limit=1)
        if newest and not new:
            if newest[0].status is RunStatus.INTERRUPTED and resume:
                return (await pipelines.resume(newest[0].id)).id
            if newest[0].status.is_active or newest[0].status is RunStatus.INTERRUPTED:
                return newest[0].id
        return (await pipelines.start(wanted, sample, new=new, user=user)).run.id
