"""Accounts over HTTP: sign up, log in and out, the list of sessions, and the password. Nothing of it is in a URL.

`POST /signup`, `/login`, `/logout`, `/logout/everywhere`, `/password`, and `GET /signup`, `/me`, `/sessions`.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tidewire.server.accounts import Accounts, BadName, NameTaken
from tidewire.server.login_attempts import TooManyAttempts
from tidewire.server.login_sessions import InvalidCredentials, LoginSession, User
from tidewire.server.login_tokens import InvalidToken, Login, Tokens, identify
from tidewire.server.passwords import WeakPassword
from tidewire.server.request_body import NO_STORE, read_body, refusal
from tidewire.support.networks import is_loopback, network_of

__all__ = ("router",)

router: APIRouter = APIRouter(tags=["accounts"])

#: The cookie by which a browser is known as a device of a user.
_DEVICE = "device"
_DEVICE_SECONDS = 31_536_000


class Credentials(msgspec.Struct, frozen=True):
    """A name and a password as a person types them; kept out of every log and error."""

    username: str
    password: str


class PasswordChange(msgspec.Struct, frozen=True):
    """The password that a user has, and the one to replace it."""

    password: str
    new_password: str


async def credentials(request: Request) -> Credentials:
    """Read a name and a password."""
    return await read_body(request, Credentials, fields='{"username": …, "password": …}')


async def logged_in(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> Login:
    """Return the login of the bearer token; refuse the request without one."""
    state = request.app.state
    try:
        return await identify(bearer.credentials if bearer else "", state.tokens, state.accounts)
    except InvalidToken as error:
        raise refusal(401, str(error), **{"WWW-Authenticate": "Bearer"}) from None


GivenCredentials = Annotated[Credentials, Depends(credentials)]
CurrentLogin = Annotated[Login, Depends(logged_in)]


@router.post("/login")
async def login(request: Request, given: GivenCredentials) -> Response:
    """Begin a session, and return its token."""
    accounts, tokens = _services(request)
    device = tokens.verify_device(request.cookies.get(_DEVICE, ""))
    try:
        user, session = await accounts.login(
            given.username,
            given.password,
            network=_network(request),
            device=device,
            seconds=tokens.seconds,
            program=_program(request),
        )
        return _logged_in(request, user, session, 200)
    except InvalidCredentials:
        raise refusal(401, "Invalid credentials") from None
    except TooManyAttempts as error:
        raise _too_many(error) from None


@router.get("/signup")
async def can_sign_up(request: Request) -> Response:
    """Return whether people may sign up here, and whether the first account is still to be made."""
    accounts, _ = _services(request)
    allowed = request.app.state.settings.signup
    return JSONResponse({"allowed": allowed, "first": allowed and await accounts.is_empty()}, headers=NO_STORE)


@router.post("/signup", status_code=201)
async def signup(request: Request, given: GivenCredentials) -> Response:
    """Create an account, and return the token of its first session."""
    if not request.app.state.settings.signup:
        raise refusal(403, "signing up is switched off here; ask the operator of this server for an account")
    accounts, tokens = _services(request)
    try:
        user = await accounts.add_user(given.username, given.password, network=_network(request))
        session = await accounts.sessions.start(user.id, tokens.seconds, _program(request))
        return _logged_in(request, user, session, 201)
    except NameTaken as error:
        raise refusal(409, str(error)) from None
    except TooManyAttempts as error:
        raise _too_many(error) from None
    except (BadName, WeakPassword) as error:
        raise refusal(422, str(error)) from None


@router.get("/me")
async def me(login: CurrentLogin) -> Response:
    """Return the user of the token."""
    return JSONResponse({"username": login.user.name}, headers=NO_STORE)


@router.get("/sessions")
async def sessions(request: Request, login: CurrentLogin) -> Response:
    """Return the sessions of the user, the newest first; `current` marks the one that asks."""
    accounts, _ = _services(request)
    found = await accounts.sessions.of(login.user.id)
    return JSONResponse({"sessions": [_shown(session, login) for session in found]}, headers=NO_STORE)


@router.post("/logout")
async def logout(request: Request, login: CurrentLogin) -> Response:
    """End the session that asks; its token and its connections end."""
    accounts, _ = _services(request)
    ended = await accounts.sessions.end(login.user.id, login.claims.session)
    return JSONResponse({"ended": ended}, headers=NO_STORE)


@router.post("/logout/everywhere")
async def logout_everywhere(request: Request, login: CurrentLogin) -> Response:
    """End all sessions of the user."""
    accounts, _ = _services(request)
    return JSONResponse({"ended": await accounts.sessions.end(login.user.id)}, headers=NO_STORE)


@router.delete("/sessions/{session}")
async def end_session(request: Request, session: str, login: CurrentLogin) -> Response:
    """End one session of the user."""
    accounts, _ = _services(request)
    if not await accounts.sessions.end(login.user.id, session):
        raise refusal(404, "there is no such session; GET /sessions lists them")
    return JSONResponse({"ended": 1}, headers=NO_STORE)


@router.post("/password")
async def change_password(request: Request, login: CurrentLogin) -> Response:
    """Change the password of the user, and end the other sessions."""
    given = await read_body(request, PasswordChange, fields='{"password": …, "new_password": …}')
    accounts, _ = _services(request)
    try:
        ended = await accounts.change_password(
            login.user, given.password, given.new_password, network=_network(request), keep=login.claims.session
        )
    except InvalidCredentials:
        raise refusal(403, "this is not the password that you have now") from None
    except TooManyAttempts as error:
        raise _too_many(error) from None
    except WeakPassword as error:
        raise refusal(422, str(error)) from None
    return JSONResponse({"ended": ended}, headers=NO_STORE)


def _logged_in(request: Request, user: User, session: LoginSession, status: int) -> Response:
    """Return the token of a session that has begun, on a device that is known from now on."""
    _, tokens = _services(request)
    token = tokens.issue(user.id, session)
    content = {"token": token, "access_token": token, "token_type": "bearer"}
    response = JSONResponse(content, status, headers=NO_STORE)
    known = tokens.verify_device(request.cookies.get(_DEVICE, ""))
    if known is None or known[0] != user.id:
        response.set_cookie(
            _DEVICE,
            tokens.issue_device(user.id),
            max_age=_DEVICE_SECONDS,
            path="/login",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
    return response


def _shown(session: LoginSession, login: Login) -> dict[str, object]:
    return {
        "id": session.id,
        "created": session.created,
        "expires": session.expires,
        "device": session.device,
        "current": session.id == login.claims.session,
    }


def _program(request: Request) -> str:
    return request.headers.get("user-agent", "")


def _services(request: Request) -> tuple[Accounts, Tokens]:
    return request.app.state.accounts, request.app.state.tokens


def _too_many(error: TooManyAttempts) -> HTTPException:
    return refusal(429, str(error), **{"Retry-After": str(max(1, math.ceil(error.retry_after)))})


def _network(request: Request) -> str:
    """Return the network that attempts are counted for; "" for loopback, and where the address is not known."""
    address = request.client.host if request.client else ""
    return "" if is_loopback(address) or not ("." in address or ":" in address) else network_of(address)
