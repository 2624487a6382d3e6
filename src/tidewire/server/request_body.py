"""Small bodies of requests, as JSON or as a form, read so that no error quotes the input of a person."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from fastapi import HTTPException, Request
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Message, Receive

__all__ = ("NO_STORE", "read_body", "refusal")

T = TypeVar("T")

NO_STORE = {"Cache-Control": "no-store"}
#: Bytes of a body.
_BODY_SIZE = 16_384
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class _TooBig(Exception):
    pass


def refusal(status: int, detail: str, **headers: str) -> HTTPException:
    """Return the exception that refuses a request about accounts."""
    return HTTPException(status, detail, headers=NO_STORE | headers)


async def read_body(request: Request, type_: type[T], *, fields: str) -> T:
    """Return a body, JSON or form; `fields` describe it to a caller that sends another. Raises HTTPException."""
    limited = Request(request.scope, _limited(request.receive))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/plain":  # a form of another site can send JSON so
        raise refusal(415, f"send {fields} as application/json or as a form")
    try:
        if kind in _FORMS:
            async with limited.form(max_files=0, max_fields=16) as form:
                return msgspec.convert(dict(form), type_)
        return msgspec.json.decode(await limited.body(), type=type_)
    except _TooBig:
        raise refusal(413, f"the body is too big for {fields}") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError, StarletteHTTPException):
        raise refusal(422, f"send {fields} as JSON or as a form") from None


def _limited(receive: Receive) -> Receive:
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _BODY_SIZE:
            raise _TooBig
        return message

    return limited
