"""FastAPI's own forms in rules and calls: Depends, optional users; what cannot work is refused at start."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Generic, NewType, TypedDict, TypeVar

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, Query, Request, WebSocket
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from helpers.hubs import receive, run, serving
from tidewire import ConfigurationError, Hub, PermissionDenied
from tidewire.rules.base import Caller, Identity


@dataclasses.dataclass(frozen=True)
class User:
    """The user of an application."""

    name: str


ANN = Caller("c1", Identity("ann", context=User("ann")))
NOBODY = Caller("c2", Identity())
opened: list[str] = []


async def session() -> AsyncIterator[str]:
    """Open a session of a database."""
    opened.append("begin")
    try:
        yield "session"
    except Exception:
        opened.append("rollback")
        raise
    else:
        opened.append("commit")


def plain_session() -> Iterator[str]:
    """Open a session without a loop."""
    opened.append("begin")
    yield "plain session"
    opened.append("end")


def members(user: str, room: int, database: Annotated[str, Depends(session)]) -> list[str]:
    """Return the members of a room: a dependency with dependencies and parameters."""
    return [user, str(room), database]


class Service:
    """A class as a dependency."""

    def __init__(self, user: str, database: str = Depends(session)) -> None:
        self.of = f"{user} by {database}"


class Checker:
    """An instance as a dependency."""

    async def __call__(self, user: str) -> str:
        return f"checked {user}"


def ask(hub: Hub, channel: str, caller: Caller = ANN) -> Any:
    return asyncio.run(hub.authority.subscribe(caller, channel, "", b""))


def test_dependencies_of_every_kind() -> None:
    hub, seen = Hub(), list[Any]()
    opened.clear()

    @hub.channel("room:{room}")
    async def room(
        room: int,
        found: Annotated[list[str], Depends(members)],
        database: str = Depends(session),
        plain: str = Depends(plain_session),
        service: Service = Depends(),
        checked: str = Depends(Checker()),
    ) -> bool:
        seen.extend((room, found, database, plain, service.of, checked))
        return True

    ask(hub, "room:7")
    assert seen == [7, ["ann", "7", "session"], "session", "plain session", "ann by session", "checked ann"]
    assert sorted(opened) == ["begin", "begin", "commit", "end"]


def test_a_dependency_sees_the_exception_of_its_rule() -> None:
    hub = Hub()
    opened.clear()

    @hub.rpc("fail")
    async def fail(database: str = Depends(session)) -> None:
        raise PermissionDenied("no")

    with pytest.raises(PermissionDenied):
        asyncio.run(hub.authority.rpc(ANN, "fail", b""))
    assert opened == ["begin", "rollback"]


def test_a_parameter_of_the_pattern_may_be_a_dependencys_alone() -> None:
    hub = Hub()

    @hub.channel("room:{room}")
    async def room(found: list[str] = Depends(members)) -> bool:
        return found[1] == "7"

    assert ask(hub, "room:7")


@pytest.mark.parametrize(("caller", "expected"), [(ANN, ["ann", User("ann")]), (NOBODY, [None, None])])
def test_an_optional_user_is_the_name_or_none(caller: Caller, expected: list[Any]) -> None:
    hub, seen = Hub(), list[Any]()

    @hub.channel("a")
    async def rule(user: str | None, me: User | None) -> bool:
        seen.extend((user, me))
        return True

    ask(hub, "a", caller)
    assert seen == expected


def untyped(something) -> bool:  # type: ignore[no-untyped-def]
    return True


def anything(something: Any) -> bool:
    return True


def of_request(request: Request) -> bool:
    return True


def of_socket(socket: WebSocket) -> bool:
    return True


def of_connection(connection: HTTPConnection) -> bool:
    return True


def of_header(agent: Annotated[str, Header()]) -> bool:
    return True


def of_query(page: int = Query(1)) -> bool:
    return True


def of_background(tasks: BackgroundTasks) -> bool:
    return True


def of_a_dependency(found: str = Depends(of_header)) -> bool:
    return True


@pytest.mark.parametrize(
    "rule",
    [
        untyped,
        anything,
        of_request,
        of_socket,
        of_connection,
        of_header,
        of_query,
        of_background,
        of_a_dependency,
    ],
)
def test_what_cannot_work_is_refused_at_start(rule: Callable[..., Any]) -> None:
    hub = Hub()
    with pytest.raises(ConfigurationError, match=r"nothing is known|of the handshake"):
        hub.channel("a")(rule)
    with pytest.raises(ConfigurationError):
        hub.rpc("a")(rule)


Name = NewType("Name", str)
T = TypeVar("T")


class Claims(TypedDict):
    """What a token says."""

    name: str


class Box(Generic[T]):
    """A generic class."""


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function as decorators do that know nothing of coroutines."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return call


async def later(user: str) -> str:
    """Be a dependency that waits."""
    return f"later {user}"


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (Annotated[str, "a remark"], "ann"),
        (Annotated[str | None, "a remark"], "ann"),
        (Name, "ann"),
        (Name | None, "ann"),
        (Annotated[str, Depends(session), Depends(later)], "later ann"),
        (Annotated[str, Depends(functools.partial(later))], "later ann"),
        (Annotated[str, Depends(functools.partial(members, room=3))], ["ann", "3", "session"]),
        (Annotated[str, Depends(wrapped(later))], "later ann"),
        (Annotated[str, Depends(wrapped(session))], "session"),
        (Annotated[str, Depends(lambda user: later(user))], "later ann"),
    ],
    ids=[
        *("remark", "remark-or-none", "new-type", "new-type-or-none", "last-depends"),
        *("partial", "partial-with-a-value", "wrapped", "wrapped-generator", "lambda"),
    ],
)
def test_the_user_and_dependencies_in_forms_that_fastapi_knows(type_: Any, expected: Any) -> None:
    hub = Hub()

    def rule(user: Any) -> Any:
        return user

    rule.__annotations__["user"] = type_
    hub.rpc("ask")(rule)
    bound = hub._book.call("ask")
    assert bound is not None
    assert asyncio.run(bound(ANN, {})) == expected


@pytest.mark.parametrize(
    ("type_", "context"),
    [
        (Claims, {"name": "ann"}),
        (dict[str, Any], {"name": "ann"}),
        (Mapping[str, Any] | None, {"name": "ann"}),
        (list[str], ["reads"]),
        (Box[int], Box[int]()),
    ],
    ids=["typed-dict", "dict", "mapping-or-none", "list", "generic"],
)
def test_what_the_connections_dependency_returned_is_found_by_any_type(type_: Any, context: Any) -> None:
    hub = Hub()

    def rule(room: str, mine: Any) -> bool:
        return mine is context

    rule.__annotations__["mine"] = type_
    hub.channel("room:{room}")(rule)
    found = hub._book.find("room:1")
    assert found is not None
    caller = Caller("c1", Identity("ann", context=context))
    assert asyncio.run(found[0].decide(caller, "room:1", found[1])).publish


def scoped(security_scopes: SecurityScopes) -> None:
    """Ask for what only a request has."""


@pytest.mark.parametrize("dependency", [scoped, int], ids=["scopes", "no-signature"])
def test_a_dependency_that_cannot_work_is_refused_at_start(dependency: Any) -> None:
    def rule(it: Any = Depends(dependency)) -> bool:
        return True

    with pytest.raises(ConfigurationError):
        Hub().channel("news")(rule)


def refused(user: str) -> bool:
    """Let nobody in."""
    return False


def asks_another(may: Annotated[bool, Depends(refused)]) -> bool:
    """Depend on another one."""
    return may


@pytest.mark.parametrize("own_lifespan", [False, True], ids=["the-hubs-lifespan", "a-lifespan-of-ones-own"])
def test_dependency_overrides_hold_in_rules(own_lifespan: bool) -> None:
    async def main() -> None:
        hub = Hub()

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with hub:
                yield

        @hub.channel("news")
        def rule(may: Annotated[bool, Depends(asks_another)]) -> bool:
            return may

        app = FastAPI(lifespan=lifespan if own_lifespan else hub.lifespan)
        app.include_router(hub.client_router())
        async with serving(hub, app) as running:

            async def subscribes() -> bool:
                async with running.open("/connection/websocket") as client:
                    await client.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news"}}')
                    return "error" not in await receive(client) + await receive(client)

            assert not await subscribes()
            app.dependency_overrides[refused] = lambda: True
            assert await subscribes()
            app.dependency_overrides = {asks_another: lambda: False}
            assert not await subscribes()

    run(main())


def of_request(request: Request) -> str:
    """Need a request."""
    return "ann"


def of_websocket(websocket: WebSocket) -> str:
    """Need a WebSocket."""
    return "ann"


class Guard:
    """A dependency that is an object, and depends on another one."""

    async def __call__(self, user: Annotated[str, Depends(of_request)]) -> str:
        return user


@pytest.mark.parametrize("user", [of_request, of_websocket, Guard()], ids=["request", "websocket", "nested"])
def test_a_user_dependency_of_half_of_the_clients_is_refused_at_start(user: Callable[..., Any]) -> None:
    """It was a TypeError and 500 at the first WebSocket, or at the first stream (fastapi#2031)."""
    hub = Hub()
    with pytest.raises(ConfigurationError, match="HTTPConnection"):
        hub.client_router(user=user)
    if user is of_websocket:
        hub.protocol_router("/ws/{channel}", user=user)
    else:
        with pytest.raises(ConfigurationError, match="HTTPConnection"):
            hub.protocol_router("/ws/{channel}", user=user)


def test_a_user_dependency_may_take_either_kind_where_it_has_both() -> None:
    def either(request: Request = None, websocket: WebSocket = None) -> str:  # type: ignore[assignment]
        return "ann"

    Hub().client_router(user=either)
    Hub().client_router(user=lambda connection: "ann")
