"""Polled values: one call for all who track, changes alone, bounds, failures, signatures, and the end with the last."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from engine.support import run
from helpers.counting import reached
from helpers.turns import CallsByTurn
from sessions.centrifuge.support import JSON, PROTOBUF, Client, begin
from tidewire import Hub, PermissionDenied
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.key_signatures import sign_keys
from tidewire.sessions.centrifuge.polls import PolledChannel, Polls
from tidewire.testing import wait_until

CHANNEL, SECRET = "prices:eu", "a secret of the test"


class Shop:
    """An application with prices; it counts how often it is asked, and for which keys."""

    def __init__(self) -> None:
        self.prices: dict[str, Any] = {}
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.seconds = 0.0

    async def ask(self, market: str, keys: list[str]) -> dict[str, Any]:
        self.asked.append(sorted(keys))
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {key: self.prices[key] for key in keys if key in self.prices}


@asynccontextmanager
async def open_shop(
    *, every: float = 0.05, versioned: bool = False, secret: str | None = None, **limits: Any
) -> AsyncIterator[tuple[Hub, Shop]]:
    hub, shop = Hub(limits={"rate": 1e6, "burst": 1_000_000, **limits}), Shop()

    @hub.channel("prices:{market}")
    async def prices(market: str) -> bool:
        return True

    prices.poll(every=every, versioned=versioned, secret=secret)(shop.ask)
    async with hub:
        yield hub, shop


async def follow(hub: Hub, channel: str = CHANNEL, *, protocol: CentrifugeProtocol = JSON) -> Client:
    client = await begin(hub.node, hub.authority, protocol=protocol)
    await client.ask("connect")
    reply = await client.ask("subscribe", channel=channel, type=4)
    assert reply.get("type") == 4, reply
    return client


async def track(client: Client, *keys: str, signature: str = "", untrack: tuple[str, ...] = (), **versions: int) -> Any:
    items = [{"key": key, "version": versions.get(key, 0)} for key in (*keys, *(versions.keys() - set(keys)))]
    batch = {"signature": signature, "items": items}
    return await client.ask("sub_refresh", channel=CHANNEL, type=1, track=[batch], untrack=list(untrack))


def told(client: Client) -> list[tuple[str, Any]]:
    """Return what a client was told: keys with their values, None for removed ones."""
    pubs = [push["pub"] for push in client.pushes("pub", CHANNEL)]
    return [(pub["key"], None if pub.get("removed") else pub["data"]) for pub in pubs]


def pause(client: Client) -> None:
    """Let a client take nothing until its link's `take`."""
    client.link.paused = True
    client.link._writable.clear()


def versions(client: Client) -> dict[str, int]:
    return {push["pub"]["key"]: push["pub"].get("version", 0) for push in client.pushes("pub", CHANNEL)}


@pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_a_client_is_told_of_what_it_tracks_and_of_changes_alone(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            shop.prices = {"a": {"x": 1}, "b": 2, "other": 3}
            client = await follow(hub, protocol=protocol)
            assert await track(client, "a", "b") == {}
            await client.wait_pushes("pub", 2)
            kinds = [next(iter(message.keys() - {"id"})) for message in client.all]
            assert kinds[-3:] == ["sub_refresh", "push", "push"], "the reply comes first"
            count = len(shop.asked)
            await wait_until(lambda: len(shop.asked) > count + 2)
            assert sorted(told(client)) == [("a", {"x": 1}), ("b", 2)]
            shop.prices["b"] = 4
            await client.wait_pushes("pub", 3)
            del shop.prices["a"]
            await client.wait_pushes("pub", 4)
            assert told(client)[2:] == [("b", 4), ("a", None)]
            await wait_until(lambda: shop.asked[-1] == ["b"], what="the removed key is asked for no more")
            assert all(version < 2**53 for version in versions(client).values())

    run(main())


def test_all_who_track_share_a_call_and_newcomers_what_is_known() -> None:
    async def main() -> None:
        async with open_shop(every=60.0) as (hub, shop):
            shop.prices = {"a": 1, "b": 2, "c": 3}
            shop.seconds = 0.05
            clients = [await follow(hub) for _ in range(50)]
            await asyncio.gather(*(track(client, "a", "b") for client in clients))
            for client in clients:
                await client.wait_pushes("pub", 2)
            assert shop.asked == [["a", "b"]]
            late = await follow(hub)
            await track(late, "a", "c")
            await late.wait_pushes("pub", 2)
            assert shop.asked == [["a", "b"], ["c"]]
            assert sorted(told(late)) == [("a", 1), ("c", 3)]

    run(main())


def test_a_key_that_is_being_asked_for_is_not_asked_for_again() -> None:
    async def main() -> None:
        async with open_shop(every=60.0) as (hub, shop):
            shop.prices, shop.seconds = {"a": 1, "b": 2}, 0.2
            first, second = await follow(hub), await follow(hub)
            asking = asyncio.create_task(track(first, "a"))
            await wait_until(lambda: shop.asked)
            await asyncio.gather(asking, track(second, "a"))
            await second.wait_pushes("pub", 1)
            await track(second, "b")
            await second.wait_pushes("pub", 2)
            assert shop.asked == [["a"], ["b"]]

    run(main())


def test_a_client_that_comes_back_is_told_of_what_has_changed_on_any_node() -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            shop.prices = {"a": 1, "b": 2}
            client = await follow(hub)
            await track(client, "a", "b")
            await client.wait_pushes("pub", 2)
            known = versions(client)
        async with open_shop() as (hub, shop):  # another process
            shop.prices = {"a": 1, "b": 3}
            again = await follow(hub)
            await track(again, **known)
            await again.wait_pushes("pub", 1)
            gone = await follow(hub)
            del shop.prices["a"]
            await track(gone, **known)
            await gone.wait_pushes("pub", 2)
            assert told(again)[:1] == [("b", 3)]
            assert sorted(told(gone)) == [("a", None), ("b", 3)]

    run(main())


def test_versions_of_the_application_only_grow() -> None:
    async def main() -> None:
        async with open_shop(versioned=True) as (hub, shop):
            shop.prices = {"a": (5, "five"), "b": (7, "seven")}
            client = await follow(hub)
            await track(client, "a", "b", b=7)
            await client.wait_pushes("pub", 1)
            shop.prices = {"a": (4, "older"), "b": (8, "eight")}
            await client.wait_pushes("pub", 2)
            count = len(shop.asked)
            await wait_until(lambda: len(shop.asked) > count + 1)
            assert told(client) == [("a", "five"), ("b", "eight")]
            assert versions(client) == {"a": 5, "b": 8}
            newcomer, ahead = await follow(hub), await follow(hub)
            await track(newcomer, "a")
            await track(ahead, a=9)
            await newcomer.wait_pushes("pub", 1)
            shop.prices["a"] = (10, "ten")
            await ahead.wait_pushes("pub", 1)
            assert (told(newcomer)[0], told(ahead)) == (("a", "five"), [("a", "ten")])

    run(main())


@pytest.mark.parametrize("every", [0.05, 60.0])
def test_the_loop_ends_with_the_last_key(every: float) -> None:
    async def main() -> None:
        async with open_shop(every=every) as (hub, shop):
            shop.prices = {"a": 1, "b": 2}
            first, second, third = [await follow(hub) for _ in range(3)]
            for client in (first, second, third):
                await track(client, "a")
                await client.wait_pushes("pub", 1)
            await first.ask("sub_refresh", channel=CHANNEL, type=2, untrack=["a", "never tracked"])
            await second.ask("unsubscribe", channel=CHANNEL)
            assert list(Polls.of(hub.node)._channels) == [CHANNEL]
            third.link.vanish()
            await wait_until(lambda: not Polls.of(hub.node)._channels, what="nobody is asked any more")
            count = len(shop.asked)
            await asyncio.sleep(0.15)
            assert len(shop.asked) == count
            shop.prices["a"] = 2
            await track(first, "a")
            await first.wait_pushes("pub", 2)
            assert told(first) == [("a", 1), ("a", 2)]
            assert told(second) == [("a", 1)]

    run(main())


def test_a_failing_function_is_logged_and_told_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            shop.error = ZeroDivisionError("a bug")
            client = await follow(hub)
            reply = await track(client, "a")
            assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
            assert "a bug" in caplog.text
            calls = len(shop.asked)
            for _ in range(20):
                await track(client, "a")
            assert len(shop.asked) == calls, "its callers do not hammer it"
            shop.error, shop.prices = None, {"a": 1}
            await client.wait_pushes("pub", 1)
            assert told(client) == [("a", 1)]
            shop.error = PermissionDenied("closed today")
            reply = await track(client, "new")
            assert reply["error"]["code"] == 103

    with caplog.at_level(logging.ERROR):
        run(main())


def test_a_function_that_takes_too_long_is_counted() -> None:
    async def main() -> None:
        async with open_shop(state_seconds=0.05) as (hub, shop):
            shop.seconds = 5.0
            before = reached()["state_seconds"]
            reply = await track(await follow(hub), "a")
            assert reply["error"]["code"] == 100
            assert reached()["state_seconds"] == before + 1

    run(main())


@pytest.mark.parametrize("bad", [object(), {"x": {1: object()}}, (0, 1), (1, 2, 3), "no pair", (2**53, 1), (True, 1)])
def test_a_bad_value_costs_only_its_key(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_shop(versioned=True) as (hub, shop):
            shop.prices = {"a": (1, "good"), "b": bad, "c": (1, "good too")}
            client = await follow(hub)
            reply = await track(client, "a", "b", "c")
            assert reply["error"]["code"] == 100
            await client.wait_pushes("pub", 2)
            assert sorted(told(client)) == [("a", "good"), ("c", "good too")]
            assert "'b'" in caplog.text

    run(main())


def test_a_bad_value_delays_no_other() -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            shop.prices = {"bad": object(), "a": 1, "b": 1}
            first, second = await follow(hub), await follow(hub)
            assert (await track(first, "bad"))["error"]["code"] == 100
            assert await track(second, "a") == {}
            calls = len(shop.asked)  # within five seconds; after a failed call it is once a second
            await wait_until(lambda: len(shop.asked) >= calls + 8, what="all are asked for as often as before")
            shop.prices["bad"] = "good now"
            await first.wait_pushes("pub", 1)
            assert (told(first), told(second)) == ([("bad", "good now")], [("a", 1)])

    run(main())


VISITOR: ContextVar[str] = ContextVar("visitor", default="nobody")


def test_the_function_runs_in_the_context_of_no_client() -> None:
    async def main() -> None:
        seen: list[str] = []
        hub = Hub()

        @hub.channel("prices:{market}")
        async def prices(market: str) -> bool:
            return True

        @prices.poll(every=60)
        async def current(keys: list[str]) -> dict[str, int]:
            seen.append(VISITOR.get())
            return {}

        async with hub:
            client = await follow(hub)
            VISITOR.set("ann")
            await track(client, "a")
        assert seen == ["nobody"]

    run(main())


def test_keys_are_signed_for_their_user_and_channel_and_time() -> None:
    async def main() -> None:
        async with open_shop(secret=SECRET, expiry_grace_seconds=0.2) as (hub, shop):
            shop.prices = {"a": 1, "b": 2, "c": 3}
            client = await follow(hub)

            def sign(*keys: str, channel: str = CHANNEL, user: str = "", seconds: float = 60.0) -> str:
                return sign_keys(SECRET, channel, keys, user, seconds=seconds)

            good = sign("a", "b")
            for bad in (
                "",
                "x",
                good[:-1] + ("0" if good[-1] != "0" else "1"),
                good.upper(),
                sign("b", "a"),
                sign("a"),
                sign("a", "b", channel="prices:us"),
                sign("a", "b", user="ann"),
                sign_keys("other", CHANNEL, ["a", "b"], "", seconds=60),
            ):
                reply = await track(client, "a", "b", signature=bad)
                assert reply["error"]["code"] == 103, bad
            times = str(int(time.time()) - 20), str(int(time.time()) - 10)
            reply = await track(client, "a", "b", signature=":".join((*times, good[-64:])))
            assert reply["error"]["code"] == 103, "times are signed, too"
            assert told(client) == []
            reply = await track(client, "a", "b", signature=good, untrack=("b",))
            assert reply["expires"]
            assert 58 <= reply["ttl"] <= 60
            await client.wait_pushes("pub", 1)
            reply = await track(client, "c", signature=sign("c", seconds=1))
            assert reply["ttl"] == 1
            await client.wait_pushes("pub", 2)
            await wait_until(
                lambda: shop.asked[-1] == ["a"], what="the key whose signature has ended is asked for no more"
            )
            assert sorted(told(client)) == [("a", 1), ("c", 3)]

    run(main())


def test_a_signature_ends_though_its_values_failed_at_first() -> None:
    async def main() -> None:
        async with open_shop(secret=SECRET, expiry_grace_seconds=0.1) as (hub, shop):
            shop.error = ZeroDivisionError("for a moment")
            client = await follow(hub)
            reply = await track(client, "a", signature=sign_keys(SECRET, CHANNEL, ["a"], "", seconds=3))
            assert reply["error"]["code"] == 100
            shop.error, shop.prices = None, {"a": 1}
            await client.wait_pushes("pub", 1)
            await wait_until(lambda: not Polls.of(hub.node)._channels, what="the key is tracked no more")

    run(main())


def test_an_expired_signature_is_told_so() -> None:
    async def main() -> None:
        async with open_shop(secret=SECRET) as (hub, _):
            client = await follow(hub)
            signature = sign_keys(SECRET, CHANNEL, ["a"], "", seconds=1)
            await asyncio.sleep(2.05 - time.time() % 1)
            reply = await track(client, "a", signature=signature)
            assert reply["error"]["code"] == 109

    run(main())


def test_keys_are_bounded_by_connection_and_by_channel() -> None:
    async def main() -> None:
        async with open_shop(poll_keys_per_connection=3, poll_keys=4) as (hub, shop):
            shop.prices = {name: name for name in "abcdef"}
            before = reached().copy()
            first, second = await follow(hub), await follow(hub)
            assert (await track(first, "a", "b", "c", "d"))["error"]["code"] == 106
            assert await track(first, "a", "b", "c", "d", untrack=("d",)) == {}
            assert (await track(first, "d"))["error"]["code"] == 106
            assert await track(first, "d", untrack=("a",)) == {}
            assert (await track(second, "a", "e", "f"))["error"]["code"] == 106
            assert await track(second, "b", "e") == {}
            await second.wait_pushes("pub", 2)
            assert sorted(told(second)) == [("b", "b"), ("e", "e")]
            assert reached()["poll_keys_per_connection"] == before["poll_keys_per_connection"] + 2
            assert reached()["poll_keys"] == before["poll_keys"] + 1

    run(main())


def test_values_that_are_too_much_to_keep_are_asked_for_again() -> None:
    async def main() -> None:
        async with open_shop(every=60.0, poll_bytes=1_000) as (hub, shop):
            shop.prices = {"a": "x" * 800, "b": "y" * 800}
            first, second = await follow(hub), await follow(hub)
            await track(first, "a", "b")
            await first.wait_pushes("pub", 2)
            await track(second, "a", "b")
            await second.wait_pushes("pub", 2)
            assert sorted(told(second)) == sorted(told(first)) == sorted(shop.prices.items())
            assert shop.asked == [["a", "b"], ["b"], ["b"]], "once behind the reply of each"
            assert reached()["poll_bytes"] > 0
            assert Polls.of(hub.node)._channels[CHANNEL]._size <= 1_000

    run(main())


def test_a_value_that_is_not_kept_is_asked_for_until_that_succeeds() -> None:
    async def main() -> None:
        async with open_shop(poll_bytes=1) as (hub, shop):
            shop.prices = {"a": "value"}
            first, second = await follow(hub), await follow(hub)
            await track(first, "a")
            await first.wait_pushes("pub", 1)
            shop.error = ZeroDivisionError("for a moment")
            await track(second, "a")
            count = len(shop.asked)
            await wait_until(lambda: len(shop.asked) > count, what="it is asked for in vain")
            shop.error = None
            await second.wait_pushes("pub", 1)
            assert told(second) == [("a", "value")]

    run(main())


def test_a_value_that_is_not_kept_is_given_when_a_replica_no_longer_lags() -> None:
    async def main() -> None:
        async with open_shop(versioned=True, poll_bytes=1) as (hub, shop):
            shop.prices = {"a": (5, "five")}
            first, second = await follow(hub), await follow(hub)
            await track(first, "a")
            await first.wait_pushes("pub", 1)
            shop.prices = {"a": (4, "older")}
            await track(second, "a")
            count = len(shop.asked)
            await wait_until(lambda: len(shop.asked) > count + 1, what="it is asked for in vain")
            shop.prices = {"a": (5, "five")}
            await second.wait_pushes("pub", 1)
            assert (told(first), told(second)) == ([("a", "five")], [("a", "five")])

    run(main())


def test_a_client_that_was_slow_waits_for_no_call() -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            shop.prices = {"a": 1}
            slow, other = await follow(hub), await follow(hub)
            for client in (slow, other):
                await track(client, "a")
                await client.wait_pushes("pub", 1)
            pause(slow)
            shop.prices["a"] = 2
            await other.wait_pushes("pub", 2)
            shop.error = ZeroDivisionError("no call succeeds any more")
            slow.link.take()
            await slow.wait_pushes("pub", 2)
            assert told(slow) == [("a", 1), ("a", 2)]

    run(main())


def test_a_slow_client_is_given_the_newest_value_and_costs_nobody_else() -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            shop.prices = {"a": 0, "b": 0}
            slow, other = await follow(hub), await follow(hub)
            for client in (slow, other):
                await track(client, "a", "b")
                await client.wait_pushes("pub", 2)
            pause(slow)
            for number in range(1, 6):
                shop.prices["a"] = number
                await other.wait_pushes("pub", 2 + number)
            del shop.prices["b"]
            await other.wait_pushes("pub", 8)
            assert len(told(slow)) == 2
            slow.link.take()
            await slow.wait_pushes("pub", 4)
            assert sorted(told(slow)[2:], key=str) == [("a", 5), ("b", None)]

    run(main())


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"type": 1}, 107),
        ({"type": 2}, 107),
        ({"type": 3, "untrack": ["a"]}, 107),
        ({"type": -1, "untrack": ["a"]}, 107),
        ({"type": 1, "track": [{"items": []}]}, 107),
        ({"type": 1, "track": [{"items": [{}]}]}, 107),
        ({"type": 1, "track": [{"items": [{"key": "x" * 256}]}]}, 107),
        ({"type": 1, "track": [{"items": [{"key": "a\0b"}]}]}, 107),
        ({"type": 1, "channel": "prices:us", "track": [{"items": [{"key": "a"}]}]}, 103),
        ({"type": 1, "channel": "plain", "track": [{"items": [{"key": "a"}]}]}, 103),
    ],
)
def test_odd_requests_are_refused(request_: dict[str, Any], code: int) -> None:
    async def main() -> None:
        async with open_shop() as (hub, shop):
            client = await follow(hub)
            reply = await client.ask("sub_refresh", **{"channel": CHANNEL, **request_})
            assert reply["error"]["code"] == code
            assert shop.asked == []

    run(main())


def test_a_subscription_is_of_the_type_that_its_rule_offers() -> None:
    async def main() -> None:
        hub = Hub()

        @hub.channel("plain")
        async def plain() -> bool:
            return True

        async with hub:
            client = await begin(hub.node, hub.authority)
            await client.ask("connect")
            assert (await client.ask("subscribe", channel="plain", type=4))["error"]["code"] == 108
        async with open_shop() as (hub, _):
            client = await begin(hub.node, hub.authority)
            await client.ask("connect")
            await client.ask("subscribe", channel=CHANNEL)
            reply = await client.ask("sub_refresh", channel=CHANNEL, type=2, untrack=["a"])
            assert reply["error"]["code"] == 103
            other = await follow(hub)
            await hub.publish(CHANNEL, "said")
            await client.wait_pushes("pub", 1)
            await track(other, "a")
            assert other.pushes("pub") == [], "what is published there is not of the polled values"

    run(main())


def test_the_rule_is_asked_though_the_client_began_with_a_map() -> None:
    async def main() -> None:
        hub, allowed = Hub(), [True]

        @hub.channel("prices:{market}", map=True)
        async def prices(market: str) -> bool:
            return allowed[0]

        @prices.poll(every=60)
        async def current(keys: list[str]) -> dict[str, int]:
            return {}

        async with hub:
            for key in "ab":
                await hub.set(CHANNEL, key, 1)
            client = await begin(hub.node, hub.authority)
            await client.ask("connect")
            page = await client.ask("subscribe", channel=CHANNEL, type=1, phase=2, limit=1)
            allowed[0] = False
            reply = await client.ask("subscribe", channel=CHANNEL, type=4, cursor=page["cursor"])
            assert reply["error"]["code"] == 103

    run(main())


def test_clients_that_come_and_go_at_random_have_the_newest_values_once_quiet() -> None:
    async def main() -> None:
        random.seed(14)
        keys = [f"k{number}" for number in range(30)]
        async with open_shop(every=0.02, poll_bytes=200) as (hub, shop):
            shop.prices = dict.fromkeys(keys, 0)
            clients = [await follow(hub) for _ in range(20)]
            wanted: dict[Client, set[str]] = {client: set() for client in clients}
            for round_ in range(150):
                client = random.choice(clients)
                client.link.take()
                chosen = set(random.sample(keys, 3))
                if random.random() < 0.3:
                    await client.ask("sub_refresh", channel=CHANNEL, type=2, untrack=list(chosen))
                    wanted[client] -= chosen
                else:
                    await track(client, *chosen)
                    wanted[client] |= chosen
                if random.random() < 0.2:
                    pause(client)
                shop.prices[random.choice(keys)] = round_
            for client in clients:
                client.link.take()
            for client in clients:
                await wait_until(
                    lambda client=client: all(
                        dict(told(client)).get(key) == shop.prices[key] for key in wanted[client]
                    ),
                    what="all have the newest values",
                )

    run(main())


def test_many_keys_that_clients_track_at_once_are_tracked_in_turns_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """900 keys are milliseconds of work: those of thirty clients behind one another would be a turn of 150 ms."""
    done = CallsByTurn()

    async def main() -> None:
        async with open_shop() as (hub, _):
            clients = [await follow(hub) for _ in range(4)]
            items = [{"key": f"{number}"} for number in range(900)]
            with done.counting():
                for client in clients:
                    asked = {"channel": CHANNEL, "type": 1, "track": [{"items": items}]}
                    client.send({"id": 100, "sub_refresh": asked})
                await wait_until(lambda: all(client.reply(100) for client in clients))

    done.watch(monkeypatch, PolledChannel, "track")
    run(main())
    assert (done.total(), max(done.values())) == (4, 1)
