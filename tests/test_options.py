"""Channel rules and channel names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.channel_options import ChannelOptions, SlowPolicy
from tidewire.channels import check_channel, is_reserved, open_channel, personal
from tidewire.errors import BadRequest, ConfigurationError, PermissionDenied
from tidewire.hub.limit_precedence import ServerLimits
from tidewire.limits import Limits
from tidewire.retention import Retention
from tidewire.rules.options_by_name import OptionsByName

LATEST, KEPT, ROOM = ChannelOptions(slow=SlowPolicy.LATEST), ChannelOptions(history_size=7), ChannelOptions()


def test_an_exact_name_comes_before_patterns_and_these_in_their_order() -> None:
    options = OptionsByName({"room:*": ROOM, "room:1*": KEPT, "room:12": LATEST}, default=KEPT)
    assert options.of("room:12") is LATEST
    assert options.of("room:13") is ROOM
    assert options.of("elsewhere") is KEPT
    assert options.of("room:13") is options.of("room:13")


def test_many_names_do_not_fill_the_memory() -> None:
    options = OptionsByName({"room:*": ROOM})
    for number in range(25_000):
        assert options.of(f"room:{number}") is ROOM
    assert len(options._found) <= 10_000


@pytest.mark.parametrize("name", [1, None, b"room"])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="write a text"):
        OptionsByName({name: ChannelOptions()})


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty name"):
        OptionsByName({"": ROOM})


@pytest.mark.parametrize("slow", ["disconnect", "latest", None])
def test_a_policy_that_is_none_is_refused_and_not_taken_for_another(slow: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"SlowPolicy\.DISCONNECT"):
        ChannelOptions(slow=slow)


@pytest.mark.parametrize(
    "history", [{"history_size": -1}, {"history_seconds": -0.1}, {"history_seconds": float("nan")}]
)
def test_a_history_of_less_than_nothing_is_refused(history: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="write 0 for none"):
        ChannelOptions(**history)


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_a_limit_that_cannot_work_is_refused_where_it_is_written(name: str) -> None:
    for value in (-1, float("nan")):
        with pytest.raises(ConfigurationError, match=f"limit {name} is"):
            Limits(**{name: value})
    gap = ("gap_messages", "gap_bytes")
    if name in (
        "rate_per_user",
        "memory_bytes",
        "ping_seconds",
        "drain_seconds",
        "turn_seconds",
        "grace_seconds",
        "ephemeral_seconds",
        *gap,
    ):
        assert getattr(Limits(**{name: 0}), name) == 0
    else:
        with pytest.raises(ConfigurationError, match="greater than 0"):
            Limits(**{name: 0})


def test_options_give_a_retention() -> None:
    assert ChannelOptions(history_size=3, history_seconds=60).retention == Retention(3, 60)


@pytest.mark.parametrize("name", ["a", "room:1", "Straße", "日本", "a b", "x" * 255])
def test_names(name: str) -> None:
    assert check_channel(name, 255) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "a\0b", "\u202e", "\ud800", "x" * 256, None, 3, b"a"])
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(BadRequest):
        check_channel(name, 255)


@given(st.text())
def test_any_text_is_a_name_or_refused(name: str) -> None:
    try:
        assert check_channel(name, 255) == name
    except BadRequest:
        return
    assert name.isprintable()
    name.encode()


@pytest.mark.parametrize("name", ["$control", "$user:ann", "$", personal("ann")])
def test_reserved_names_are_not_open(name: str) -> None:
    assert is_reserved(name)
    with pytest.raises(PermissionDenied, match="reserved"):
        open_channel(name, 255)


def test_what_the_settings_give_counts_before_what_a_hub_says(caplog: pytest.LogCaptureFixture) -> None:
    limits = ServerLimits()
    assert limits.of_hub(Limits(rate=5)).rate == 5, "no server of ours runs"
    limits.begin({"rate": 7.0, "burst": 200})
    hub = limits.of_hub(Limits(rate=5, message_size=1_000))
    assert (hub.rate, hub.burst, hub.message_size) == (7.0, 200, 1_000)
    assert "limit rate is 7 by the server's settings, not 5 as the hub says" in caplog.text
    links = limits.of_links(Limits(rate=7.0))
    assert (links.rate, links.message_size) == (7.0, 1_000)


def test_two_hubs_of_a_server_do_not_contradict() -> None:
    limits = ServerLimits()
    limits.begin({})
    assert limits.of_hub(Limits(message_size=1_000, rate=5)) == Limits(message_size=1_000, rate=5)
    assert limits.of_hub(Limits(message_size=1_000, rate=9)).rate == 9, "a rate is a hub's own"
    with pytest.raises(ConfigurationError, match=r"1000 in one hub and 2000 in another.* --limit message_size=2000"):
        limits.of_hub(Limits(message_size=2_000))


def test_a_hub_that_comes_too_late_for_the_links_is_refused() -> None:
    limits = ServerLimits()
    limits.begin({})
    limits.of_links(Limits())
    assert limits.of_hub(Limits(rate=5)).rate == 5, "a rate is the hub's own"
    with pytest.raises(ConfigurationError, match=r"message_size=1000 of this hub comes too late.*--limit message_size"):
        limits.of_hub(Limits(message_size=1_000))
    limits.end()
    assert limits.of_hub(Limits(message_size=1_000)).message_size == 1_000
