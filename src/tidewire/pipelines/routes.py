"""The HTTP interface of pipelines, to include in any FastAPI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.websockets import WebSocket

from tidewire.errors import StoreUnavailable
from tidewire.pipelines.checks import check_ending, check_names
from tidewire.pipelines.errors import BadStart, NotFound, PipelineError
from tidewire.pipelines.folders import find_file, list_files
from tidewire.pipelines.naming import file_name, readable
from tidewire.pipelines.programs import missing_programs
from tidewire.pipelines.result_response import ResultResponse, open_inside
from tidewire.pipelines.runs import Run, RunStatus
from tidewire.pipelines.service import Pipelines
from tidewire.pipelines.viewers import EVENTS
from tidewire.rules.base import Identity

__all__ = ("Authorize", "refuse", "refusing", "router")

#: Returns the user of a connection, "" for one that may see all runs; with an Identity a viewer ends with its token.
#: Raises HTTPException or WebSocketException.
Authorize = Callable[[HTTPConnection], Awaitable[str | Identity]]
_BODY = 65_536
#: Seconds after which the user is checked again while a file is still being sent: the session may have ended.
_LOOK_SECONDS = 0.5
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
#: A result is a user's file: a browser must never run it as a page of this server.
_FILE_HEADERS = _HEADERS | {"Content-Security-Policy": "sandbox; default-src 'none'"}
#: A result that is opened in place may have its own styles and pictures, but no scripts, forms or foreign resources.
_SHOWN_HEADERS = _HEADERS | {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class _FileConvertor(StringConvertor):
    """A part of a path that is any name of a file below a folder: slashes and line feeds, too."""

    regex = "(?s:.*)"


register_url_convertor("file", _FileConvertor())


class _Given(msgspec.Struct):
    upload: str = ""
    name: str = ""


class _Start(msgspec.Struct):
    pipeline: str
    sample: str
    inputs: dict[str, _Given] = {}
    new: bool = False


class _Progress(msgspec.Struct):
    step: str
    progress: Annotated[float, msgspec.Meta(ge=0, le=1)]
    message: str = ""


async def nobody(_: HTTPConnection) -> str:
    """Return no user: everybody may see all runs."""
    return ""


def router(pipelines: Pipelines, *, authorize: Authorize = nobody) -> APIRouter:
    """Return the HTTP interface, to include under a prefix; `authorize` finds the user of a request or refuses it."""
    made = APIRouter(tags=["pipelines"])
    api = _Routes(pipelines, authorize)
    get, post = ["GET"], ["POST"]
    made.add_api_route("/", api.pipelines, methods=get)
    made.add_api_route("/inputs", api.inputs, methods=get)
    made.add_api_route("/uploads", api.upload, methods=post)
    made.add_api_route("/runs", api.start, methods=post)
    made.add_api_route("/runs", api.runs, methods=get)
    made.add_api_route("/runs/{run}", api.run, methods=get)
    made.add_api_route("/runs/{run}", api.remove, methods=["DELETE"])
    made.add_api_route("/runs/{run}/cancel", api.cancel, methods=post)
    made.add_api_route("/runs/{run}/resume", api.resume, methods=post)
    made.add_api_route("/runs/{run}/log", api.log, methods=get)
    made.add_api_route("/runs/{run}/results", api.results, methods=get)
    made.add_api_route("/runs/{run}/results/{name:file}", api.result, methods=get)
    # not described twice: the two methods of one route would have one identifier
    for path, answer in (("log", api.log), ("results", api.results), ("results/{name:file}", api.result)):
        made.add_api_route("/runs/{run}/" + path, answer, methods=["HEAD"], include_in_schema=False)
    made.add_api_route("/runs/{run}/progress", api.progress, methods=post)
    made.add_api_websocket_route("/runs/{run}/events", api.events)
    return made


class refusing:
    """Turns the errors of pipelines into HTTP errors: `with refusing():`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, PipelineError):
            raise HTTPException(exc.status, str(exc), headers=_HEADERS) from None
        if isinstance(exc, ClientDisconnect):  # a broken upload needs no traceback, and nobody reads this answer
            raise HTTPException(400, "the client disconnected before its request was complete") from None
        if isinstance(exc, StoreUnavailable):
            raise HTTPException(503, "the runs cannot be read now; try again", headers={"Retry-After": "5"}) from None


def _answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, _HEADERS, "application/json")


def _check_form(request: Request, name: str) -> None:
    """Refuse an upload whose body is a form, before it is sent."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise HTTPException(
            415,
            "the body is a form (curl -F), and not the file itself; send the file as the body: "
            "curl --data-binary @S1.fastq 'http://…/uploads?name=S1.fastq'",
            headers=_HEADERS,
        )
    if not name:
        raise BadStart("the upload has no name; add it to the address: /uploads?name=S1.fastq")


def _sent_name(request: Request) -> str:
    """Return the name of an upload as it was sent, in UTF-8 or, as old file systems have it, in Latin-1."""
    query = request.scope["query_string"].decode(errors="surrogateescape")
    return readable(parse_qs(query, errors="surrogateescape").get("name", [""])[-1])


async def _body(request: Request, type_: type[Any]) -> Any:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY:
            raise HTTPException(413, f"the body has more than {_BODY} bytes")
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadStart(
            f"the body has another form than expected ({error}); see `tidewire docs reference/pipelines`"
        ) from None


class _Routes:
    """The endpoints; each identifies its user first."""

    def __init__(self, pipelines: Pipelines, authorize: Authorize) -> None:
        self._pipelines = pipelines
        self._authorize = authorize

    async def _identity(self, connection: HTTPConnection) -> Identity:
        found = await self._authorize(connection)
        return found if isinstance(found, Identity) else Identity(found)

    async def _user(self, connection: HTTPConnection) -> str:
        return (await self._identity(connection)).user

    async def _visible(self, connection: HTTPConnection, run: str) -> tuple[Identity, Run]:
        """Return the caller and a run that they may see. Raises NotFound for another user's run, too."""
        caller = await self._identity(connection)
        found = await self._pipelines.run(run)
        if caller.user and found.user != caller.user:
            raise NotFound(f"there is no run {run[:60]!r}; it may have been removed")
        return caller, found

    async def _body_of(self, request: Request, user: str) -> AsyncIterator[bytes]:
        """Yield a body as it comes, as long as the session of its user lasts. Raises as `authorize` does."""
        looked = time.monotonic()
        chunks = request.stream()
        coming = asyncio.ensure_future(anext(chunks))
        try:
            while True:
                left = looked + _LOOK_SECONDS - time.monotonic()
                if left <= 0 or not (await asyncio.wait([coming], timeout=left))[0]:
                    await self._check_still(request, user)
                    looked = time.monotonic()
                    continue
                chunk = coming.result()
                if not chunk:  # the end: the last chunk may have come long after the last look
                    await self._check_still(request, user)
                    return
                yield chunk
                coming = asyncio.ensure_future(anext(chunks))
        finally:
            coming.cancel()

    async def _check_still(self, request: Request, user: str) -> None:
        if await self._user(request) != user:
            raise HTTPException(403, "the user of this request has changed; send it again", headers=_HEADERS)

    async def pipelines(self, request: Request) -> Response:
        await self._user(request)
        shown = []
        for pipeline in self._pipelines.definitions.values():
            missing = await asyncio.to_thread(missing_programs, pipeline)
            steps = [{"name": step.name, "title": step.title or step.name, "weight": step.weight, "needs": step.needs}
                     for step in pipeline.steps]  # fmt: skip
            inputs = [{"name": given.name, "title": given.title or given.name, "accept": given.accept,
                       "optional": given.optional} for given in pipeline.inputs]  # fmt: skip
            shown.append({"name": pipeline.name, "title": pipeline.title or pipeline.name,
                          "description": pipeline.description, "inputs": inputs, "steps": steps,
                          "missing": missing})  # fmt: skip
        return _answer({"default": self._pipelines.default, "pipelines": shown})

    async def inputs(self, request: Request) -> Response:
        await self._user(request)
        folder = self._pipelines.inputs
        return _answer({"inputs": await asyncio.to_thread(list_files, folder) if folder else []})

    async def upload(self, request: Request, name: str = "", pipeline: str = "", input: str = "") -> Response:
        user = await self._user(request)
        with refusing():
            name = name and _sent_name(request)
            _check_form(request, name)
            if pipeline:  # a name that is not accepted is refused before the file is sent
                self._check_input(pipeline, input, name)
            size = request.headers.get("content-length", "")
            announced = int(size) if size.isdecimal() else 0
            uploads = self._pipelines.uploads
            return _answer(await uploads.save(name, self._body_of(request, user), user=user, size=announced), 201)

    def _check_input(self, pipeline: str, name: str, file: str) -> None:
        found = self._pipelines.definition(pipeline)
        check_names(found, [name])
        check_ending(next(wanted for wanted in found.inputs if wanted.name == name), file_name(file, "upload"))

    async def start(self, request: Request) -> Response:
        user = await self._user(request)
        with refusing():
            wanted: _Start = await _body(request, _Start)
            check_names(self._pipelines.definition(wanted.pipeline), wanted.inputs)
            inputs = await asyncio.to_thread(self._files, wanted.inputs, user)
            started = await self._pipelines.start(
                wanted.pipeline, wanted.sample, inputs=inputs, new=wanted.new, user=user
            )
            return _answer(started, 200 if started.joined else 201)

    def _files(self, inputs: Mapping[str, _Given], user: str) -> dict[str, Path]:
        folder = self._pipelines.inputs
        found = {}
        for key, given in inputs.items():
            if given.upload:
                found[key] = self._pipelines.uploads.path(given.upload, user=user)
            elif folder and (path := find_file(folder, given.name)):
                found[key] = path
            else:
                raise BadStart(
                    f"there is no input {given.name[:80]!r} on the server; upload it, or name one that is listed"
                )
        return found

    async def runs(
        self,
        request: Request,
        pipeline: str = "",
        sample: str = "",
        status: RunStatus | None = None,
        before: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Response:
        user = await self._user(request)
        with refusing():
            runs = await self._pipelines.runs(
                pipeline=pipeline, sample=sample, status=status, user=user, before=before, limit=limit
            )
            return _answer({"runs": runs, "next": runs[-1].id if len(runs) == limit else None})

    async def run(self, request: Request, run: str) -> Response:
        with refusing():
            return _answer({"run": (await self._visible(request, run))[1]})

    async def remove(self, request: Request, run: str) -> Response:
        with refusing():
            await self._visible(request, run)
            await self._pipelines.remove(run)
            return Response(status_code=204, headers=_HEADERS)

    async def cancel(self, request: Request, run: str) -> Response:
        with refusing():
            await self._visible(request, run)
            return _answer({"run": await self._pipelines.cancel(run)}, 202)

    async def resume(self, request: Request, run: str) -> Response:
        with refusing():
            await self._visible(request, run)
            return _answer({"run": await self._pipelines.resume(run)}, 202)

    async def log(
        self,
        request: Request,
        run: str,
        step: str = "",
        start: Annotated[int, Query(alias="from")] = 0,
        limit: Annotated[int, Query(ge=0)] = 65_536,
    ) -> Response:
        with refusing():
            await self._visible(request, run)
            part = await self._pipelines.log(run, step, start=start, limit=limit)
        headers = {"Log-Step": part.step, "Log-From": str(part.start), "Log-Size": str(part.size)}
        headers["Log-Next"] = str(part.start + len(part.data))
        return Response(part.data, headers=_HEADERS | headers, media_type="text/plain; charset=utf-8")

    async def results(self, request: Request, run: str) -> Response:
        with refusing():
            await self._visible(request, run)
            return _answer({"results": await self._pipelines.results(run)})

    async def result(self, request: Request, run: str, name: str, show: bool = False) -> Response:
        with refusing():
            caller, _ = await self._visible(request, run)
            path = await self._pipelines.result(run, name)
            is_shown = show and name in await self._pipelines.shown(run)
            # the folder of the run is the parent of the results, whose names may contain folders
            opened = await asyncio.to_thread(open_inside, path, path.parents[name.count("/") + 1])
        shown_name = readable(path.name)
        filename = None if is_shown else shown_name
        headers = _SHOWN_HEADERS if is_shown else _FILE_HEADERS

        async def look() -> None:
            await self._check_still(request, caller.user)

        return ResultResponse(opened, shown_name, headers, filename=filename, look=look, seconds=_LOOK_SECONDS)

    async def progress(self, request: Request, run: str) -> Response:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        with refusing():
            said: _Progress = await _body(request, _Progress)
            await self._pipelines.report(
                run, key.strip() if scheme.lower() == "bearer" else "", said.step, said.progress, said.message
            )
            return Response(status_code=204, headers=_HEADERS)

    async def events(self, websocket: WebSocket, run: str, log: bool = True) -> None:
        pipelines = self._pipelines
        try:
            caller, _ = await self._visible(websocket, run)
        except PipelineError as error:
            await refuse(pipelines, websocket, error)
            return
        async with pipelines.hub.connect(websocket, user=caller, protocol=EVENTS) as connection:
            await pipelines.watch(connection, run, log=log)


async def refuse(pipelines: Pipelines, websocket: WebSocket, error: PipelineError) -> None:
    """Accept a WebSocket, send it an error and close it: a page cannot read a refused handshake."""
    async with pipelines.hub.connect(websocket, protocol=EVENTS) as connection:
        await connection.send_json({"type": "error", "code": error.code, "content": str(error)})
        await connection.close(1008, str(error)[:100])
