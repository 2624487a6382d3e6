from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections.abc import Coroutine
from typing import Any, Literal

import msgspec
import pytest
from fastapi import HTTPException
from pydantic import BaseModel

from tidewire import (
    BadRequest,
    ConfigurationError,
    Hub,
    NotAvailable,
    PermissionDenied,
    Permissions,
    Refused,
    Rejected,
    SlowPolicy,
    UnknownChannel,
    UnknownType,
)
from tidewire.channel_options import ChannelOptions
from tidewire.rules.base import Action, Caller, ConnectAttempt, Identity


@dataclasses.dataclass(frozen=True)
class User:
    """What a dependency of an application returns."""

    name: str
    is_staff: bool = False


ANN = Caller("c1", Identity("ann", context=User("ann")))
BOB = Caller("c2", Identity("bob", context=User("bob", is_staff=True)))
NOBODY = Caller("c3", Identity())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def subscribe(hub: Hub, channel: str, caller: Caller = ANN) -> Any:
    return run(hub.authority.subscribe(caller, channel, "", b""))


def may(hub: Hub, action: Action, channel: str, caller: Caller = ANN, *, subscribed: bool = False) -> bool:
    try:
        run(hub.authority.allow(caller, channel, action, subscribed=subscribed))
    except PermissionDenied:
        return False
    return True


def test_without_rules_all_is_as_it_was() -> None:
    hub = Hub(channels={"feed": ChannelOptions(publish=False), "secret": ChannelOptions(subscribe=False)})
    assert subscribe(hub, "anything").options == ChannelOptions()
    assert may(hub, Action.PUBLISH, "anything")
    assert not may(hub, Action.PUBLISH, "feed")
    with pytest.raises(PermissionDenied):
        subscribe(hub, "secret")
    with pytest.raises(PermissionDenied):
        subscribe(hub, "$user:ann")


def test_a_rule_is_given_its_parameters_by_name_and_type() -> None:
    hub = Hub()
    seen: list[Any] = []

    @hub.channel("order:{shop}:{number}:{ticket}")
    async def order(
        ticket: uuid.UUID, number: int, shop: str, user: str, me: User, caller: Caller, who: Identity
    ) -> bool:
        seen.extend((ticket, number, shop, user, me, caller, who))
        return True

    ticket = uuid.uuid4()
    subscribe(hub, f"order:tea:7:{ticket}")
    assert seen == [ticket, 7, "tea", "ann", User("ann"), ANN, ANN.identity]
    with pytest.raises(UnknownChannel):
        subscribe(hub, f"order:tea:seven:{ticket}")


def test_a_user_of_another_type_is_what_the_dependency_returned() -> None:
    hub = Hub()

    @hub.channel("staff")
    def staff(user: User) -> bool:
        return user.is_staff

    assert subscribe(hub, "staff", BOB)
    with pytest.raises(PermissionDenied):
        subscribe(hub, "staff", ANN)
    with pytest.raises(PermissionDenied, match="has no User"):
        subscribe(hub, "staff", NOBODY)


def test_a_default_stands_for_who_is_nobody() -> None:
    hub = Hub()

    @hub.channel("open")
    async def open_(user: User = User("guest")) -> bool:
        return user.name == "guest"

    assert subscribe(hub, "open", NOBODY)


def test_a_plain_function_runs_in_a_thread() -> None:
    hub = Hub()
    threads: list[int] = []

    @hub.channel("a")
    def plain() -> bool:
        threads.append(threading.get_ident())
        return True

    @hub.channel("b")
    async def coroutine() -> bool:
        threads.append(threading.get_ident())
        return True

    subscribe(hub, "a")
    subscribe(hub, "b")
    assert threads[0] != threading.get_ident()
    assert threads[1] == threading.get_ident()


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        (True, {"subscribe", "publish", "remove", "history", "presence"}),
        (False, set()),
        (Permissions(), {"subscribe", "history", "presence"}),
        (Permissions(publish=True, history=False), {"subscribe", "publish", "remove", "presence"}),
        (Permissions(subscribe=False, publish=True), {"publish", "remove", "history", "presence"}),
    ],
)
def test_what_a_rule_may_return(said: bool | Permissions, allowed: set[str]) -> None:
    hub = Hub()

    @hub.channel("x", presence=True)
    async def rule() -> bool | Permissions:
        return said

    removes = {"remove"} if "publish" in allowed else set()  # entries of a map, by the right to set them
    assert {action.value for action in Action if may(hub, action, "x")} == allowed - {"subscribe"} | removes
    if "subscribe" in allowed:
        assert subscribe(hub, "x")
    else:
        with pytest.raises(PermissionDenied):
            subscribe(hub, "x")


@pytest.mark.parametrize("said", [None, "yes", 1, {}])
def test_a_rule_that_says_something_else_allows_nothing(said: Any) -> None:
    hub = Hub()

    @hub.channel("x")
    async def rule() -> Any:
        return said

    with pytest.raises(ConfigurationError, match="True, False or Permissions"):
        subscribe(hub, "x")


def test_a_rule_may_refuse_in_its_own_words() -> None:
    hub = Hub()

    @hub.channel("room:{room}")
    async def rule(room: str) -> bool:
        if room == "http":
            raise HTTPException(403, "not in this room")
        if room == "own":
            raise Refused(1000, "the room is full", temporary=True)
        raise PermissionDenied("go away")

    with pytest.raises(PermissionDenied, match="not in this room"):
        subscribe(hub, "room:http")
    with pytest.raises(Refused):
        subscribe(hub, "room:own")
    with pytest.raises(PermissionDenied, match="go away"):
        subscribe(hub, "room:other")


def test_what_a_rule_adds_to_a_subscription() -> None:
    hub = Hub()

    @hub.channel("x")
    async def rule() -> Permissions:
        return Permissions(info={"role": "host"}, data=[1], expires_at=4_000_000_000.0)

    grant = subscribe(hub, "x")
    assert (grant.info, grant.data, grant.expires_at) == (b'{"role":"host"}', b"[1]", 4_000_000_000.0)


def test_the_options_of_a_rule_are_the_options_of_the_channel() -> None:
    hub = Hub(channels={"room:*": ChannelOptions(history_size=1)}, default=ChannelOptions(history_size=2))

    @hub.channel("room:{room}", history=7, history_seconds=60, presence=True, join_leave=True, slow=SlowPolicy.LATEST)
    async def rule(room: str) -> bool:
        return True

    options = hub.authority.options("room:1")
    assert (options.history_size, options.history_seconds, options.slow) == (7, 60, SlowPolicy.LATEST)
    assert options.presence
    assert options.force_join_leave
    assert options.force_recoverable

    async def published() -> None:
        async with hub:
            for number in range(9):
                await hub.publish("room:1", number)
            assert len((await hub.history("room:1")).publications) == 7
            assert hub.node.options.of("room:1") == options

    run(published())


def test_dialects_that_ask_no_rules_leave_their_channels_alone() -> None:
    hub = Hub()

    @hub.channel("room:{room}")
    async def rule(room: str) -> bool:
        return True

    options = hub.authority.options("room:1")
    assert not options.subscribe
    assert not options.publish
    assert subscribe(hub, "room:1")


def test_with_a_rule_only_named_channels_exist() -> None:
    hub = Hub(channels={"feed": ChannelOptions(publish=False), "price:*": ChannelOptions()})

    @hub.channel("room:{room}")
    async def rule(room: str) -> bool:
        return True

    assert subscribe(hub, "feed")
    assert not may(hub, Action.PUBLISH, "feed")
    assert subscribe(hub, "price:tea")
    with pytest.raises(UnknownChannel):
        subscribe(hub, "other")


def test_the_most_special_rule_decides_whatever_their_order() -> None:
    hub = Hub()
    asked: list[str] = []

    def rule(pattern: str, name: str) -> None:
        @hub.channel(pattern)
        async def named(rest: str = "") -> bool:
            asked.append(name)
            return True

    rule("{rest:path}", "all")
    rule("room:{rest}", "rooms")
    rule("room:vip", "vip")
    for channel in ("room:vip", "room:1", "other"):
        subscribe(hub, channel)
    assert asked == ["vip", "rooms", "all"]


def test_a_decision_holds_while_the_channel_is_followed() -> None:
    hub = Hub()
    asked: list[str] = []
    allowed = [Permissions(publish=True)]

    @hub.channel("x")
    async def rule(user: str) -> Permissions:
        asked.append(user)
        return allowed[0]

    subscribe(hub, "x")
    for _ in range(3):
        assert may(hub, Action.PUBLISH, "x", subscribed=True)
    assert asked == ["ann"]
    allowed[0] = Permissions()
    assert may(hub, Action.PUBLISH, "x", subscribed=True)
    assert not may(hub, Action.PUBLISH, "x", BOB, subscribed=True)  # another connection is asked for
    assert not may(hub, Action.PUBLISH, "x", subscribed=False)
    subscribe(hub, "x")
    assert not may(hub, Action.PUBLISH, "x", subscribed=True)


def test_what_is_not_offered_is_not_available() -> None:
    hub = Hub()

    @hub.channel("x", history=0)
    async def rule() -> bool:
        return True

    for action in (Action.HISTORY, Action.PRESENCE):
        with pytest.raises(NotAvailable):
            may(hub, action, "x")


def test_mistakes_are_told_where_they_are_made() -> None:
    hub = Hub()

    def unknown(room: str, session: Literal["a"]) -> bool:
        return True

    def missing() -> bool:
        return True

    def unnamed(*args: str) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="'session'"):
        hub.channel("room:{room}")(unknown)
    with pytest.raises(ConfigurationError, match="takes no parameter 'room'"):
        hub.channel("room:{room}")(missing)
    with pytest.raises(ConfigurationError, match="'args'"):
        hub.channel("room")(unnamed)
    hub.channel("twice")(missing)
    with pytest.raises(ConfigurationError, match="already"):
        hub.channel("twice")(missing)
    hub.rpc("twice")(missing)
    with pytest.raises(ConfigurationError, match="already"):
        hub.rpc("twice")(missing)


class Numbers(BaseModel):
    left: int
    right: int


class Pair(msgspec.Struct):
    left: int
    right: int


@pytest.mark.parametrize("type_", [Numbers, Pair])
def test_a_call_with_a_model_and_a_reply(type_: Any) -> None:
    hub = Hub()

    async def add(numbers: Any, user: str, me: User) -> dict[str, Any]:
        return {"sum": numbers.left + numbers.right, "by": [user, me.name]}

    add.__annotations__["numbers"] = type_
    hub.rpc("add")(add)
    assert run(hub.authority.rpc(ANN, "add", b'{"left": 1, "right": 2}')) == b'{"sum":3,"by":["ann","ann"]}'
    for wrong in (b'{"left": 1}', b"", b"[", b'{"left": 1, "right": "x"}', b"[" * 100_000):
        with pytest.raises(BadRequest, match="do not fit"):
            run(hub.authority.rpc(ANN, "add", wrong))
    with pytest.raises(UnknownType, match="'other'"):
        run(hub.authority.rpc(ANN, "other", b""))


def test_calls_without_a_model() -> None:
    hub = Hub()

    @hub.rpc("echo")
    def echo(data: Any) -> Any:
        return data

    @hub.rpc("whoami")
    async def whoami(user: str) -> str:
        return user

    @hub.rpc("model")
    async def model() -> Numbers:
        return Numbers(left=1, right=2)

    assert run(hub.authority.rpc(ANN, "echo", b"[1,null]")) == b"[1,null]"
    assert run(hub.authority.rpc(ANN, "echo", b"")) == b"null"
    assert run(hub.authority.rpc(ANN, "whoami", b"anything")) == b'"ann"'
    assert run(hub.authority.rpc(ANN, "model", b"")) == b'{"left":1,"right":2}'


def test_without_calls_none_is_available() -> None:
    with pytest.raises(NotAvailable):
        run(Hub().authority.rpc(ANN, "add", b""))


def test_who_connects() -> None:
    hub = Hub()
    assert run(hub.authority.connect(ConnectAttempt(), None)) == Identity()
    assert run(hub.authority.connect(ConnectAttempt(), ANN.identity)) is ANN.identity
    with pytest.raises(Rejected):  # nobody here can say whose token it is
        run(hub.authority.connect(ConnectAttempt(token="t"), ANN.identity))

    @hub.authenticate
    async def who(attempt: ConnectAttempt) -> Identity | str | None:
        if attempt.token == "http":
            raise HTTPException(401)
        return {"a": "ann", "b": Identity("bob", expires_at=5.0)}.get(attempt.token)

    assert run(hub.authority.connect(ConnectAttempt(token="a"), None)) == Identity("ann")
    assert run(hub.authority.connect(ConnectAttempt(token="b"), None)).expires_at == 5.0
    for bad in ("c", "http"):
        with pytest.raises(Rejected) as caught:
            run(hub.authority.connect(ConnectAttempt(token=bad), None))
        assert caught.value.disconnect.code == 3500
    assert run(hub.authority.refresh(ANN, "a")).context == User("ann")
    with pytest.raises(Rejected):
        run(hub.authority.refresh(ANN, "b"))

    @hub.authenticate
    def at_once(attempt: ConnectAttempt) -> str | None:
        return {"a": "ann"}.get(attempt.token)

    assert run(hub.authority.connect(ConnectAttempt(token="a"), None)) == Identity("ann")
    with pytest.raises(Rejected):
        run(hub.authority.connect(ConnectAttempt(token="b"), None))


def test_a_value_that_cannot_be_sent_is_a_fault_of_the_application_and_not_of_the_client() -> None:
    hub = Hub()

    @hub.rpc("now")
    async def now(user: str) -> object:
        return object()

    @hub.channel("room")
    async def room(user: str) -> Permissions:
        return Permissions(info=object())

    with pytest.raises(ConfigurationError, match="the call 'now' returned a value that cannot be sent"):
        run(hub.authority.rpc(ANN, "now", b""))
    with pytest.raises(ConfigurationError, match="the rule for 'room' returned a value that cannot be sent"):
        subscribe(hub, "room")


def test_joins_are_for_those_that_may_see_presence() -> None:
    hub = Hub()

    @hub.channel("room:{name}", presence=True, join_leave=True)
    async def room(name: str, user: str) -> Permissions:
        return Permissions(presence=name == "open")

    assert subscribe(hub, "room:open").sees_joins
    assert not subscribe(hub, "room:closed").sees_joins
