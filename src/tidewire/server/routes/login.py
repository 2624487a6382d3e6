"""`POST /login`, `POST /signup` and `GET /me`: a name and a password for a token. Nothing of it is ever in a URL."""

from __future__ import annotations

import ipaddress
import math
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Message, Receive

from tidewire.errors import StoreUnavailable
from tidewire.server.accounts import (
    Accounts,
    BadName,
    InvalidCredentials,
    NameTaken,
    TooManyLogins,
    User,
    WeakPassword,
)
from tidewire.server.tokens import InvalidToken, Tokens, identify

__all__ = ("router",)

router: APIRouter = APIRouter(tags=["accounts"])

#: Bytes of a body.
_BODY_SIZE = 16_384
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_NO_STORE = {"Cache-Control": "no-store"}
_EXPECTED = 'send {"username": …, "password": …} as JSON or as a form'


class Credentials(msgspec.Struct, frozen=True):
    """What a person types; kept out of every log and error."""

    username: str
    password: str


def _refusal(status: int, detail: str, **headers: str) -> HTTPException:
    return HTTPException(status, detail, headers=_NO_STORE | headers)


class _TooBig(Exception):
    pass


async def credentials(request: Request) -> Credentials:
    """Read the body, JSON or form; what is wrong with it is answered without showing any of it."""
    limited = Request(request.scope, _limited(request.receive))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind in _FORMS:
            async with limited.form(max_files=0, max_fields=16) as form:
                return msgspec.convert(dict(form), Credentials)
        return msgspec.json.decode(await limited.body(), type=Credentials)
    except _TooBig:
        raise _refusal(413, "the body is too big for a name and a password") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, StarletteHTTPException):
        raise _refusal(422, _EXPECTED) from None


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


@router.post("/login")
async def login(request: Request, given: Annotated[Credentials, Depends(credentials)]) -> Response:
    """Return a token for a name and a password."""
    accounts: Accounts = request.app.state.accounts
    try:
        user = await accounts.login(given.username, given.password, address=_address(request))
    except InvalidCredentials:
        raise _refusal(401, "Invalid credentials") from None
    except TooManyLogins as error:
        raise _too_many(error) from None
    except StoreUnavailable:
        raise _away() from None
    return _token(request, user, 200)


@router.post("/signup", status_code=201)
async def signup(request: Request, given: Annotated[Credentials, Depends(credentials)]) -> Response:
    """Make an account, and return its first token."""
    if not request.app.state.settings.signup:
        raise _refusal(403, "signing up is switched off here; ask whoever runs this server for an account")
    accounts: Accounts = request.app.state.accounts
    try:
        user = await accounts.add_user(given.username, given.password)
    except NameTaken as error:
        raise _refusal(409, str(error)) from None
    except TooManyLogins as error:
        raise _too_many(error) from None
    except (BadName, WeakPassword) as error:
        raise _refusal(422, str(error)) from None
    except StoreUnavailable:
        raise _away() from None
    return _token(request, user, 201)


@router.get("/me")
async def me(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> Response:
    """Return who the bearer of the token is."""
    try:
        user = await identify(
            bearer.credentials if bearer else "", request.app.state.tokens, request.app.state.accounts
        )
    except InvalidToken as error:
        raise _refusal(401, str(error), **{"WWW-Authenticate": "Bearer"}) from None
    except StoreUnavailable:
        raise _away() from None
    return JSONResponse({"username": user.name}, headers=_NO_STORE)


def _token(request: Request, user: User, status: int) -> Response:
    tokens: Tokens = request.app.state.tokens
    token = tokens.issue(user.name)
    content = {"token": token, "access_token": token, "token_type": "bearer"}
    return JSONResponse(content, status, headers=_NO_STORE)


def _too_many(error: TooManyLogins) -> HTTPException:
    return _refusal(429, str(error), **{"Retry-After": str(math.ceil(error.retry_after))})


def _away() -> HTTPException:
    return _refusal(503, "the accounts cannot be read now; try again", **{"Retry-After": "5"})


def _address(request: Request) -> str:
    """Return what failures are counted for: an IPv4 address, an IPv6 network of one household, nothing for loopback.

    Behind a proxy that does not say for whom it asks, all people would share one loopback address.
    """
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return ""
    if address.is_loopback:
        return ""
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
