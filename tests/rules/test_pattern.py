from __future__ import annotations

import pytest

from tidewire.errors import ConfigurationError
from tidewire.rules.pattern import Pattern


@pytest.mark.parametrize(
    ("text", "channel", "found"),
    [
        ("lobby", "lobby", {}),
        ("lobby", "lobby2", None),
        ("lobby", "Lobby", None),
        ("room:{room}", "room:1", {"room": "1"}),
        ("room:{room}", "room:", None),
        ("room:{room}", "room:1:2", None),
        ("room:{room}", "xroom:1", None),
        ("room:{rest:path}", "room:1:2", {"rest": "1:2"}),
        ("{kind}:{id}", "a:b", {"kind": "a", "id": "b"}),
        ("a.b:{x}", "axb:1", None),
        ("room:{room}:end", "room:1:end", {"room": "1"}),
        ("room:{room}", "room:1\n", {"room": "1\n"}),
    ],
)
def test_matching(text: str, channel: str, found: dict[str, str] | None) -> None:
    assert Pattern(text).match(channel) == found


@pytest.mark.parametrize("text", ["", "room:{}", "room:{1}", "room:{a", "room:a}", "{a}:{a}", "{a:int}"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Pattern(text)


def test_the_more_special_comes_first() -> None:
    texts = [
        "{all:path}",
        "{kind}:{id}",
        "room:{rest:path}",
        "room:{room}",
        "room:vip-{room}",
        "room:{a}:{b}",
        "room:1",
    ]
    ranked = sorted(texts, key=lambda text: Pattern(text).rank)
    assert ranked == [
        "room:1",
        "room:vip-{room}",
        "room:{a}:{b}",
        "room:{room}",
        "{kind}:{id}",
        "room:{rest:path}",
        "{all:path}",
    ]
