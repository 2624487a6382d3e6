"""FastAPI's own forms in rules and calls: Depends, optional users; what cannot work is refused at start."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, Header, Query, Request, WebSocket
from starlette.requests import HTTPConnection

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
