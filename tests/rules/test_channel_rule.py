from __future__ import annotations

from tidewire import Hub


def test_a_rule_is_called_like_its_function() -> None:
    hub = Hub()

    @hub.channel("room:{room}")
    def room(room: int, user: str = "") -> bool:
        """Return whether the room is open."""
        return room == 1

    assert room(1)
    assert not room(room=2, user="ann")
    assert room.pattern == "room:{room}"
    assert (room.__name__, room.__doc__) == ("room", "Return whether the room is open.")
