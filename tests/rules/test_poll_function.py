"""The function for polled values of a rule: what it may take, and how keys are signed."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from annotated_types import Len
from fastapi import Depends, HTTPException
from pydantic import StringConstraints

from engine.support import run
from tidewire import BadRequest, ConfigurationError, Hub, PermissionDenied
from tidewire.rules.base import Poll
from tidewire.rules.channel_rule import ChannelRule


def rule(hub: Hub) -> ChannelRule[Any, Any]:
    @hub.channel("prices:{market}")
    async def prices(market: int) -> bool:
        return True

    return prices


def poll_of(hub: Hub) -> Poll:
    found = hub._book.poll("prices:7")
    assert found is not None
    return found


def session() -> str:
    return "session"


def test_the_function_is_given_the_keys_its_pattern_and_dependencies() -> None:
    hub = Hub()

    @rule(hub).poll(every=2)
    def current(market: int, keys: set[str], given: Annotated[str, Depends(session)]) -> dict[str, Any]:
        return dict.fromkeys(keys, (market, given))

    async def main() -> None:
        poll = poll_of(hub)
        assert (poll.every, poll.versioned, poll.secret) == (2, False, "")
        assert await poll.ask(["a", "b"]) == {"a": (7, "session"), "b": (7, "session")}

    run(main())
    assert hub._book.poll("other") is None


def only_keys(keys: list[str]) -> None: ...
def no_keys(market: int) -> None: ...
def of_a_user(keys: list[str], user: str) -> None: ...
def of_numbers(keys: list[int]) -> None: ...
def of_small_letters(keys: list[Annotated[str, StringConstraints(pattern="^[a-z]*$")]]) -> None: ...
def of_trimmed(keys: list[Annotated[str, StringConstraints(strip_whitespace=True)]]) -> None: ...
def of_few(keys: Annotated[list[str], Len(max_length=100)]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (no_keys, {}),
        (of_a_user, {}),
        (of_numbers, {}),
        (of_small_letters, {}),
        (of_trimmed, {}),
        (of_few, {}),
        (only_keys, {"every": 0}),
        (only_keys, {"every": -1}),
        (only_keys, {"every": "1"}),
        (only_keys, {"every": True}),
        (only_keys, {"every": float("nan")}),
        (only_keys, {"every": float("inf")}),
        (only_keys, {"secret": ""}),
        (only_keys, {"secret": b"secret"}),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(function: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        rule(Hub()).poll(**{"every": 1, **options})(function)


def test_a_rule_has_one_function_and_no_parameter_of_the_same_name() -> None:
    hub = Hub()
    prices = rule(hub)
    prices.poll(every=1)(only_keys)
    with pytest.raises(ConfigurationError, match="already"):
        prices.poll(every=1)(only_keys)

    @hub.channel("other:{keys}")
    async def other(keys: str) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="rename"):
        other.poll(every=1)(only_keys)


def test_what_it_raises_and_returns() -> None:
    hub = Hub()
    answers: list[Any] = [HTTPException(403, "closed"), [1, 2]]

    @rule(hub).poll(every=1)
    async def current(keys: list[str]) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def main() -> None:
        with pytest.raises(PermissionDenied, match="closed"):
            await poll_of(hub).ask(["a"])
        with pytest.raises(ConfigurationError, match="list"):
            await poll_of(hub).ask(["a"])

    run(main())


def test_a_function_may_empty_its_list_and_returns_texts_as_keys() -> None:
    hub = Hub()

    @rule(hub).poll(every=1)
    async def current(keys):  # type: ignore[no-untyped-def]
        return {(int(key) if key.isdigit() else key): 1 for key in [keys.pop() for _ in tuple(keys)]}

    async def main() -> None:
        asked = ["a", "b"]
        assert await poll_of(hub).ask(asked) == {"a": 1, "b": 1}
        assert asked == ["a", "b"]
        with pytest.raises(ConfigurationError, match=r"key 7 of type int.* str\(key\)"):
            await poll_of(hub).ask(["a", "7"])

    run(main())


def test_keys_are_signed_as_they_are_tracked() -> None:
    hub = Hub()
    prices = rule(hub)
    prices.poll(every=1, secret="s of the test")(only_keys)
    for bad in ("public\0secret", "half \ud800"):
        with pytest.raises(BadRequest):
            prices.sign("prices:7", ["a", bad])
    for channel, keys in (("7", ["a"]), ("other:7", ["a"]), ("prices:7", "abc")):
        with pytest.raises(ConfigurationError, match="no list of keys"):
            prices.sign(channel, keys)
    assert "of the test" not in repr(poll_of(hub))


def test_keys_are_signed_as_for_centrifugo() -> None:
    hub = Hub()
    prices = rule(hub)
    with pytest.raises(ConfigurationError, match="secret="):
        prices.sign("prices:7", ["a"])
    prices.poll(every=1, secret="s")(only_keys)
    begins, ends, code = prices.sign("prices:7", ["a", "b"], "ann", seconds=60).split(":")
    assert int(ends) == int(begins) + 60
    keys = hashlib.sha256(b"a\0b").hexdigest()
    payload = f"{begins}\0{ends}\0ann\0prices:7\0{keys}".encode()
    assert code == hmac.new(b"s", payload, hashlib.sha256).hexdigest()
    assert re.fullmatch(r"\d+:\d+:[0-9a-f]{64}", prices.sign("prices:7", [], seconds=0.1))
