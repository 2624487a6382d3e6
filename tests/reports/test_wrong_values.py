"""Whatever an application gives a verb by mistake is one sentence, and harms nobody (`user=7` concatenated strings)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import enum
import inspect
import re
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket

from engine.support import run
from faults.serving import STORES, Store, store
from helpers.hubs import serving
from tidewire import ChannelOptions, Hub, Limits, Publisher, Tickets
from tidewire.errors import BadRequest, ConfigurationError, TidewireError
from tidewire.protocols.plain import PlainProtocol
from tidewire.support.shown_value import shown


class Color(enum.StrEnum):
    """Names as applications have them."""

    RED = "red"


class Name(str):
    """A str that no driver of a store knows."""


WRONG: list[Any] = [None, 7, -1, 1.5, float("nan"), True, b"x", "", "a" * 5_000, "\ud800", "x\0y"]
WRONG += [Color.RED, Name("name"), decimal.Decimal(1), datetime.timedelta(1), Color, lambda: 1]
WRONG += [[], {}, {"a"}, ("a",), object(), uuid.uuid4(), datetime.datetime.now()]
WRONG += [2**64, float("inf"), datetime.datetime.min]


class Secretive:
    """Objects that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not shown")


DEEP: list[Any] = []
for _ in range(3_000):
    DEEP = [DEEP]
#: Values for verbs alone, whose callers may have them from others: `limit=10**5000` ended the process under Redis.
ODD = [10**5_000, -(2**70), DEEP, Secretive()]
#: Verbs, with what they need beside the one wrong value.
HUB: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "publish": (("good", "x"), ("key", "tags", "skip_history", "ephemeral", "but_not")),
    "history": (("good",), ("since", "limit", "reverse")),
    "presence": (("good",), ()),
    "users": (("good",), ()),
    "is_online": (("ann",), ()),
    "inbox": (("ann",), ("since",)),
    "remove_history": (("other",), ()),
    "send_to_user": (("ann", "x"), ()),
    "broadcast": (("x",), ()),
    "disconnect": ((), ("user", "connection", "reason", "reconnect")),
    "stream_events": (("good",), ("since",)),
    "stream_ui": (("good",), ("answer", "ended")),
    "stream": (("stream",), ()),
    "revoke": ((), ("user", "jti", "issued_before")),
    "listen": (("good",), ("since", "history", "state")),
    "rate": (("5/s",), ("name",)),
    "set": (("map", "k", 1), ("ttl", "expect", "owner")),
    "unset": (("map", "k"), ("expect",)),
    "entries": (("map",), ()),
    "position": (("good",), ()),
    "state": (("good",), ()),
    "unsubscribe": (("ann", "good"), ()),
    "set_presence": (("nobody", "good", 1), ()),
    "repeat_event": (("nothing",), ()),
}
CONNECTION: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "subscribe": (("good",), ("since", "history", "presence", "join", "leave", "leave_on_error", "info", "reply")),
    "unsubscribe": (("good",), ()),
    "publish": (("good", "x"), ("key", "ephemeral", "but_not")),
    "submit": (("good", "x"), ("key",)),
    "set": (("map", "k", 1), ("ttl", "expect")),
    "unset": (("map", "k"), ("expect",)),
    "set_presence": (("good", 1), ()),
    "send": (("x",), ()),
    "send_text": (("x",), ()),
    "send_bytes": ((b"x",), ()),
    "send_json": ((1,), ()),
    "expire_at": ((None,), ()),
    "identify": (("ann",), ("info",)),
}


async def raw_errors(owner: Any, verbs: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]]) -> list[str]:
    """Give each argument of each verb each wrong value, and return the errors that are none of ours."""
    found = []

    async def attempt(what: str, call: Callable[[], Any]) -> None:
        try:
            async with asyncio.timeout(10):
                answer = call()
                while inspect.isawaitable(answer):
                    answer = await answer
                if hasattr(answer, "__aenter__"):
                    async with answer:
                        pass
        except TidewireError as error:
            if "\n" in str(error):
                found.append(f"{what}: more than a line")
        except Exception as error:
            found.append(f"{what}: {error!r}")

    for name, (needed, options) in verbs.items():
        verb = getattr(owner, name)
        for wrong in (*WRONG, *ODD):
            for place in range(len(needed)):
                given = [*needed[:place], wrong, *needed[place + 1 :]]
                await attempt(f"{name}, argument {place} {shown(wrong)}", lambda v=verb, g=given: v(*g))
            for option in options:
                keyword = {option: wrong}
                await attempt(f"{name}, {option}={shown(wrong)}", lambda v=verb, n=needed, k=keyword: v(*n, **k))
        if name == "expire_at":
            owner.expire_at(None)
    return found


@pytest.mark.parametrize(
    "name", ["memory", "sqlite", *(pytest.param(n, marks=pytest.mark.slow) for n in STORES if n != "sqlite")]
)
def test_a_wrong_value_is_one_sentence(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    memory = nullcontext(Store("memory://", None))
    with memory if name == "memory" else store(name, tmp_path) as used:

        async def scenario() -> None:
            hub = Hub(used.url)
            found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

            async def endpoint(websocket: WebSocket) -> None:
                async with hub.connect(websocket, user="bob") as connection:
                    found.set_result(await raw_errors(connection, CONNECTION))

            async with serving(hub, endpoint) as app:
                await hub.publish("good", "first")
                async with app.open(max_queue=None):
                    assert await found == [], "\n".join(await found)
                assert await raw_errors(hub, HUB) == []
                await hub.publish("good", "last")
                newest = (await hub.history("good", limit=1, reverse=True)).publications[0]
                assert newest.data == b"last"
                assert not hub.degraded
            assert "fault of the program" not in caplog.text  # as a str enumeration was in PostgreSQL's delivery

        run(scenario(), 90)


MAKE: dict[str, Callable[[Any], Any]] = {
    "Hub(url)": Hub,
    "Hub(limits=)": lambda wrong: Hub(limits=wrong),
    "Hub(channels=)": lambda wrong: Hub(channels=wrong),
    "Hub(origins=)": lambda wrong: Hub(origins=wrong),
    "Publisher": Publisher,
    "Limits": lambda wrong: Limits(rate=wrong),
    "ChannelOptions": lambda wrong: ChannelOptions(history_size=wrong, history_seconds=wrong),
    "channel": lambda wrong: Hub().channel(wrong),
    "channel(history=)": lambda wrong: Hub().channel("room", history=wrong),
    "rpc": lambda wrong: Hub().rpc(wrong),
    "on": lambda wrong: Hub().on(wrong),
    "on over no function": lambda wrong: Hub().on("connected")(wrong if not callable(wrong) else None),
    "on(joined)": lambda wrong: Hub().on("joined", wrong),
    "webhook": lambda wrong: Hub().webhook(wrong, secret="s" * 32, events=["connected"]),
    "webhook(secret=)": lambda wrong: Hub().webhook("https://example.org/", secret=wrong, events=["connected"]),
    "webhook(events=)": lambda wrong: Hub().webhook("https://example.org/", secret="s" * 32, events=wrong),
    "rate": lambda wrong: Hub().rate(wrong),
    "channel(rate=)": lambda wrong: Hub().channel("room", rate=wrong or 0),
    "channel(publishes=)": lambda wrong: Hub().channel("room", publishes=wrong or 0),
    "Tickets": lambda wrong: Tickets(Hub(), wrong),
    "protocol_router": lambda wrong: Hub().protocol_router(wrong),
    "metrics_router": lambda wrong: Hub().metrics_router(key=wrong, path=wrong),
    "api_router": lambda wrong: Hub().api_router(key=wrong),
    "asyncapi(base_url=)": lambda wrong: Hub().asyncapi(base_url=wrong),
    "connect": lambda wrong: Hub().connect(wrong),
    "client_router": lambda wrong: Hub().client_router(user=wrong),
}
#: Arguments that may be None, and may have no other wrong value.
OPTIONAL: dict[str, Callable[[Any], Any]] = {
    "protocol_router(protocol=)": lambda wrong: Hub().protocol_router("/ws", wrong),
    "api_router(authority=)": lambda wrong: Hub().api_router(key="k", authority=wrong),
    "api_router(extensions=)": lambda wrong: Hub().api_router(key="k", extensions=wrong),
    "api_router(error_mode=)": lambda wrong: Hub().api_router(key="k", error_mode=wrong),
    "api_router(insecure=)": lambda wrong: Hub().api_router(insecure=wrong),
    "api_router(prefix=)": lambda wrong: Hub().api_router(key="k", prefix=wrong),
    "client_router(authority=)": lambda wrong: Hub().client_router(authority=wrong),
    "client_router(name=)": lambda wrong: Hub().client_router(name=wrong),
    "admin_router(user=)": lambda wrong: Hub().admin_router(user=wrong),
    "admin_router(pages=)": lambda wrong: Hub().admin_router(pages=wrong),
    "admin_router(open_page=)": lambda wrong: Hub().admin_router(open_page=wrong),
    "metrics_router(user=)": lambda wrong: Hub().metrics_router(user=wrong),
    "metrics_router(key=)": lambda wrong: Hub().metrics_router(key=wrong),
    "asyncapi_router(path=)": lambda wrong: Hub().asyncapi_router(path=wrong),
    "asyncapi_router(described=)": lambda wrong: Hub().asyncapi_router(described=wrong),
    "asyncapi(app=)": lambda wrong: Hub().asyncapi(wrong),
    "asyncapi(title=)": lambda wrong: Hub().asyncapi(title=wrong),
    "asyncapi(version=)": lambda wrong: Hub().asyncapi(version=wrong),
    "playground_router(user=)": lambda wrong: Hub().playground_router(user=wrong),
    "channel(clients_map=)": lambda wrong: Hub().channel("room", clients_map=wrong),
    "channel(users_map=)": lambda wrong: Hub().channel("room", users_map=wrong),
    "authenticate": lambda wrong: Hub().authenticate(wrong),
    "channel(map=)": lambda wrong: Hub().channel("room", map=wrong),
    "channel(publishes=)": lambda wrong: Hub().channel("room", publishes=wrong),
}

#: What may come from a variable of the environment, and be a number of any size.
NUMBERS = ("Hub(url)", "Limits", "ChannelOptions", "channel(history=)", "rate", "channel(rate=)", "Tickets")


def test_a_rate_of_thousands_of_digits_is_one_sentence() -> None:
    for text in (f"{'9' * 5_000}/s", f"1/{'9' * 5_000}s", f"1/s burst {'9' * 5_000}"):
        with pytest.raises(ConfigurationError, match="is none"):
            Hub().rate(text)


@pytest.mark.parametrize("what", OPTIONAL)
@pytest.mark.parametrize("wrong", [5, object(), {"a": 1}, 1.5])
def test_a_wrong_argument_of_a_router_is_one_sentence(what: str, wrong: Any) -> None:
    """ "'int' object has no attribute 'options'"; `insecure="false"` let everybody in."""
    with pytest.raises(ConfigurationError):
        OPTIONAL[what](wrong)


def test_a_prefix_may_end_with_a_slash() -> None:
    """FastAPI: "A path prefix must not end with '/', as the routes will start with '/'"."""
    assert Hub().api_router(key="k", prefix="/api/").prefix == "/api"
    with pytest.raises(ConfigurationError, match="true"):
        Hub().api_router(insecure="false")  # type: ignore[arg-type]


@pytest.mark.parametrize("what", MAKE)
def test_a_wrong_value_in_the_configuration_is_one_sentence(what: str) -> None:
    """A variable that was not set gave "a bytes-like object is required"."""
    for wrong in (*WRONG, *(ODD if what in NUMBERS else ())):
        with contextlib.suppress(TidewireError):
            MAKE[what](wrong)
    if what not in ("Hub(limits=)", "Hub(channels=)", "Hub(origins=)", "client_router"):
        with pytest.raises(ConfigurationError) as caught:
            MAKE[what](None)
        assert any(
            text in str(caught.value)
            for text in ("None", "needs a key", "needs secret", "is none", "no type", "is a list")
        )


HEADER = [(b"x-mine", b"1")]


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        *(
            ("headers", wrong)
            for wrong in ({"x-mine": "1"}, [("x-mine", "1")], "x", 5, [(b"x", b"1", b"2")], [(b"x", 1)])
        ),
        *(("headers", [*HEADER, wrong]) for wrong in ((b"x", b"1\r\nset-cookie: a=b"), (b"x\n", b""), (b"x y", b""))),
        *(("protocol", wrong) for wrong in ("json", None, PlainProtocol)),
        *(("subprotocol", wrong) for wrong in (["chat"], b"chat", 5)),
        *(("token", wrong) for wrong in ("eyJ", {"jti": "a"})),
    ],
)
def test_a_wrong_argument_of_connect_is_one_sentence(argument: str, wrong: Any) -> None:
    """They were errors from within the handshake, which left the client without an answer under some servers."""

    async def scenario() -> None:
        async with Hub() as hub:
            websocket = WebSocket({"type": "websocket"}, WebSocket.receive, WebSocket.send)  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match=f"^{argument}=") as caught:
                hub.connect(websocket, **{argument: wrong})
            for module, name in re.findall(r"(tidewire[.a-z]*)\.([A-Z]\w+)", str(caught.value)):
                assert hasattr(import_module(module), name)
            assert hub.connect(websocket, headers=iter(HEADER), subprotocol="chat")

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["\ud800", "a\nb", " key", "key\t", "\0", "a\x7fb"])
def test_a_key_that_no_header_can_hold_is_told(key: str) -> None:
    """A surrogate was a UnicodeEncodeError, and with the others each request was 401."""
    for make in (lambda: Hub().api_router(key=key), lambda: Hub().metrics_router(key=key)):
        with pytest.raises(ConfigurationError, match="no header can hold"):
            make()


@pytest.mark.parametrize("key", ["plain", "schlüssel", "voilà", "ключ", "a b", "★"])
def test_a_key_may_have_letters_of_any_language(key: str) -> None:
    """As Latin-1, or as UTF-8, some bytes of which are spaces in Latin-1; and in the query of the HTTP API."""

    async def scenario() -> None:
        async with Hub() as hub:
            app = FastAPI()
            app.include_router(hub.api_router(key=key))
            app.include_router(hub.metrics_router(key=key))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                assert (await client.post("/api/info", params={"api_key": key})).status_code == 200
                forms = [form for form in ("latin-1", "utf-8") if form != "latin-1" or max(key) <= "\xff"]
                for form in forms:
                    for given, status in ((key, 200), (key[:-1], 401), (f"{key}{key[-1]}", 401)):
                        for headers in ({"X-API-Key": given.encode(form)},
                                        {"Authorization": b"ApiKey " + given.encode(form)}):  # fmt: skip
                            assert (await client.get("/metrics", headers=headers)).status_code == status
                            assert (await client.post("/api/info", headers=headers)).status_code == status

    run(scenario())


@pytest.mark.parametrize(
    "url", ["", "example.org", "http://", "ftp://x", "ws://x:99999", "http://[::1", "http://a b", "http://\ud800"]
)
def test_a_base_url_that_is_none_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        Hub().asyncapi(base_url=url)


@pytest.mark.parametrize("path", ["", "/"])
def test_the_path_of_the_document_has_a_name(path: str) -> None:
    """FastAPI: "Prefix and path cannot be both empty (path operation: show)"."""
    with pytest.raises(ConfigurationError, match="/asyncapi"):
        Hub().asyncapi_router(path=path)


def test_a_host_header_that_names_nothing_is_answered() -> None:
    """A caller's `Host: [::1` was a traceback and 500."""

    async def scenario() -> None:
        hub = Hub()
        app = FastAPI()
        app.include_router(hub.asyncapi_router())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answers = [
                (await client.get("http://x/asyncapi.json", headers={"Host": host})).status_code
                for host in ("[::1", "x:99999", "x")
            ]
        assert answers == [400, 400, 200]

    run(scenario())


@pytest.mark.parametrize("pattern", ["room:\ud800", "a\0b", "x\n", "room:{room}\t", " room", "r" * 1_300])
def test_a_pattern_that_fits_no_channel_is_told(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        Hub().channel(pattern)(lambda user: True)


def test_the_text_false_is_not_true() -> None:
    """A query parameter without a type: `hub.publish(…, skip_history="false")` left it out of the history."""

    async def scenario() -> None:
        async with Hub() as hub:
            false: Any = "false"
            for call in (
                lambda: hub.publish("good", 1, skip_history=false),
                lambda: hub.publish("good", 1, ephemeral=false),
                lambda: hub.history("good", reverse=false),
                lambda: hub.disconnect(user="ann", reconnect=false),
            ):
                with pytest.raises(BadRequest, match="True or False"):
                    await call()
            with pytest.raises(BadRequest, match="True or False"):
                hub.listen("good", state=false)
            assert not (await hub.history("good")).publications

    run(scenario())
