"""The routes of the HTTP API: the key, bodies, answers, and their description."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response, Security
from fastapi.security import APIKeyHeader
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from tidewire.errors import ConfigurationError, TidewireError
from tidewire.http_api import models as m
from tidewire.http_api import results
from tidewire.http_api.calls import FAULT, METHODS, Calls, Method, failure
from tidewire.messages import HistoryPage
from tidewire.protocols.centrifuge.codes import UNKNOWN_CHANNEL
from tidewire.protocols.json_text import with_whole_characters
from tidewire.sessions.header_keys import check_key, is_key
from tidewire.sessions.origins import Origins
from tidewire.support.counters import count_limit
from tidewire.support.refusals import note_refusal
from tidewire.support.shown_value import shown

__all__ = ("api_router",)

logger = logging.getLogger("tidewire")

R = TypeVar("R")

_OWN_PAGES = Origins()
_JSON, _NOT_STORED = "application/json", {"Cache-Control": "no-store"}
_STATUS = {102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}
_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="The key of the HTTP API.")


class _TooBig(Exception):
    pass


class _AnyObject(msgspec.Struct):
    """Any JSON object; its fields are looked at later."""


class _Command(msgspec.Struct, frozen=True):
    """One line of a body of commands."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


_decode_command = msgspec.json.Decoder(_Command).decode


def api_router(
    calls: Callable[[], Calls],
    *,
    key: str,
    insecure: bool = False,
    error_mode: str = "",
    prefix: str = "/api",
    methods: Mapping[str, Method] = METHODS,
) -> APIRouter:
    """Make the routes `POST {prefix}/publish` and so on; `calls` is asked when one comes.

    Raises ConfigurationError without a key, unless everybody may call, and for an unknown mode.
    """
    if not insecure and not (isinstance(key, str) and key):
        raise ConfigurationError("the HTTP API needs a key: api_router(key=…); insecure=True lets everybody call it")
    if error_mode not in ("", "transport"):
        raise ConfigurationError(f"error_mode={shown(error_mode)} is none; write 'transport', or leave it")
    router = APIRouter(prefix=prefix, tags=["api"])
    endpoint = _Endpoint(calls, key="" if insecure else check_key(key), error_mode=error_mode)
    router.add_api_route("", endpoint.commands, methods=["POST"], include_in_schema=False)
    for name, method in methods.items():
        answer = m.Answer[method.result] if name != "batch" else method.result  # type: ignore[name-defined]
        router.add_api_route(
            f"/{name}",
            endpoint.method(name),
            methods=["POST"],
            name=name,
            operation_id=f"api_{name}",
            summary=name,
            description=method.request.__doc__,
            response_model=answer,
            dependencies=[] if insecure else [Security(_KEY)],
            responses={401: {"description": "The key is missing or wrong."}, 413: {"description": "Too big."}},
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _inlined(method.request.model_json_schema())}},
                }
            },
        )
    return router


def _no_object(body: bytes, error: Exception) -> str:
    """Return an explanation of a body that is no JSON object, for the usual mistakes of programs."""
    for begin, problem in _OTHER_BODIES.items():
        if body.startswith(begin):
            return problem
    return f"the body is no JSON object: {'it is not UTF-8' if isinstance(error, UnicodeDecodeError) else error}"


_OTHER_BODIES = {
    b"\x1f\x8b": "the body is compressed with gzip, which is not read here; send it as it is",
    b"\xef\xbb\xbf": "the body begins with a byte order mark (BOM); send UTF-8 without one",
    b"\xff\xfe": "the body is UTF-16; send UTF-8",
    b"\xfe\xff": "the body is UTF-16; send UTF-8",
    b"{'": "the body has single quotes; JSON has double ones",
}


class _Endpoint:
    """Answers calls."""

    def __init__(self, calls: Callable[[], Calls], *, key: str, error_mode: str) -> None:
        self._calls = calls
        self._key = key
        self._error_mode = error_mode

    def method(self, name: str) -> Callable[[Request], Any]:
        """Return the endpoint of one method."""

        async def endpoint(request: Request) -> Response:
            if not self._is_known(request):
                return Response(status_code=401)
            body = b""
            try:
                body = with_whole_characters(await self._body(request))
                msgspec.json.decode(body.decode() or "{}", type=_AnyObject)
            except _TooBig:
                return Response(status_code=413)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                return Response(_no_object(body, error), status_code=400, media_type="text/plain")
            return await self._answer(name, body, request)

        return endpoint

    async def commands(self, request: Request) -> Response:
        """Answer lines of `{"method": …, "params": …}`, which clients sent before each method had a path."""
        if not self._is_known(request):
            return Response(status_code=401)
        try:
            body = with_whole_characters(await self._body(request))
            commands = [_decode_command(line) for line in body.splitlines() if line.strip()]
        except _TooBig:
            return Response(status_code=413)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = 'send lines as {"method": "publish", "params": {…}}'
            return Response(text, status_code=400, media_type="text/plain")
        calls = self._calls()
        most = calls.node.limits.api_items
        if len(commands) > most:
            return Response(str(m.too_many("the body", len(commands), most)), status_code=413, media_type="text/plain")
        replies = [m.encode(await self._reply(calls, command)) for command in commands]
        return Response(b"\n".join(replies), media_type=_JSON, headers=_NOT_STORED)

    async def _reply(self, calls: Calls, command: _Command) -> dict[str, Any]:
        method, params = command.method, bytes(command.params)
        result = await self._called(method, lambda: calls.call(method, params))
        return {"error": result} if isinstance(result, m.ApiError) else {"result": result}

    def _is_known(self, request: Request) -> bool:
        if not self._key:  # everybody may call, but a page of another site must not call on behalf of its visitor
            return _OWN_PAGES.allows(request)
        headers, query = request.headers, request.query_params
        scheme, _, authorization = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key")]
        if given[0] is None and scheme.lower() == "apikey":
            given.append(authorization.strip(" \t"))
        given.append(query.get("api_key"))
        return any(key is not None and is_key(key, self._key) for key in given)

    async def _body(self, request: Request) -> bytes:
        node = self._calls().node
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > node.limits.api_bytes:
                count_limit("api_bytes")
                raise _TooBig
        return bytes(body)

    async def _answer(self, name: str, body: bytes, request: Request) -> Response:
        calls = self._calls()
        if name == "history":
            return await self._answer_history(calls, body, request)
        result = await self._called(name, lambda: calls.call(name, body))
        if isinstance(result, m.ApiError):
            return self._failed(result, request)
        return _json(result if name == "batch" else {"result": result})

    async def _answer_history(self, calls: Calls, body: bytes, request: Request) -> Response:
        """Answer with a history page by page, as the caller takes it."""

        async def begin() -> tuple[HistoryPage, AsyncGenerator[HistoryPage, None]]:
            pages = calls.history_pages(body)
            return await anext(pages), pages

        begun = await self._called("history", begin)
        if isinstance(begun, m.ApiError):
            return self._failed(begun, request)
        first, rest = begun
        if not first.is_cut:
            return _json({"result": results.history(first)})
        return _Streamed(request, results.stream_history(first, rest))

    async def _called(self, name: str, call: Callable[[], Awaitable[R]]) -> R | m.ApiError:
        try:
            return await call()
        except TidewireError as error:
            return failure(error)
        except Exception:
            logger.exception("the call %s of the HTTP API failed", name)
            return FAULT

    def _failed(self, error: m.ApiError, request: Request) -> Response:
        if "transport" in (request.headers.get("x-centrifugo-error-mode"), self._error_mode):
            is_invalid = isinstance(error.detail, list)  # as FastAPI has it
            return _json(error, 422 if is_invalid else _STATUS.get(error.code, 500))
        if error.code == UNKNOWN_CHANNEL.code and isinstance(error.detail, str):
            # some clients' own tests compare this error as a whole
            note_refusal("unknown_channel", error.detail, address=request.client.host if request.client else "")
            return _json({"error": m.ApiError(code=error.code, message=error.message)}, detail=error.detail)
        return _json({"error": error})


class _Streamed(Response):
    """An answer in parts; each is made when the caller has taken the one before, until the caller disconnects."""

    def __init__(self, request: Request, parts: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type=_JSON, headers=_NOT_STORED)
        del self.headers["content-length"]
        self._request = request
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._parts):
            async for part in self._parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                if await self._request.is_disconnected():
                    return
        await send({"type": "http.response.body", "body": b""})


def _json(content: object, status: int = 200, *, detail: str = "") -> Response:
    more = {"X-Error-Detail": ascii(detail)[1:-1]} if detail else {}
    return Response(m.encode(content), status, media_type=_JSON, headers={**_NOT_STORED, **more})


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace references by their definitions, because those of a schema are not those of the document."""
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(item) for item in value]
        if not isinstance(value, dict):
            return value
        reference = value.get("$ref", "").removeprefix("#/$defs/")
        if reference in definitions:
            return inline(definitions[reference])
        return {name: inline(inner) for name, inner in value.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined
