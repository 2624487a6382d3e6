"""The options of channels."""

from __future__ import annotations

from enum import Enum

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.limits import is_number
from tidewire.retention import Retention
from tidewire.support.shown_value import shown

__all__ = ("ChannelOptions", "MapKind", "MapOptions", "SlowPolicy")


class SlowPolicy(Enum):
    """The treatment of a subscriber that does not take its publications in time."""

    DISCONNECT = "disconnect"  #: it is disconnected with a code that makes it come back and recover
    LATEST = "latest"  #: only the newest publication is kept for it (prices, cursors)
    DROP = "drop"  #: publications that it cannot take are dropped and counted, and it is told how many


class MapKind(Enum):
    """The entries of a map: those that are set, or one for each connection or user in another channel."""

    ENTRIES = "map"
    CLIENTS = "map_clients"
    USERS = "map_users"


class MapOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a channel that is a map for clients; raises ConfigurationError for values that cannot work."""

    kind: MapKind = MapKind.ENTRIES
    #: Seconds after which an entry is removed that a client has set; 0: it stays.
    ttl: float = 0.0
    #: A client that was away gets the changes that it missed; otherwise it gets all entries anew.
    recoverable: bool = True
    #: An entry that a client sets leaves with its connection.
    owned: bool = False
    #: The key of every entry that a client sets: `client_id`, `user_id`, or "" for the one that it names.
    client_key: str = ""
    #: Seconds over which an SDK joins its changes to one key.
    debounce: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, MapKind):
            raise ConfigurationError(f"kind={self.kind!r} is none of a map; write MapKind.ENTRIES, CLIENTS or USERS")
        if self.client_key not in ("", "client_id", "user_id"):
            raise ConfigurationError(f"client_key={self.client_key!r} is none; write client_id, user_id, or leave it")
        if not (is_number(self.ttl) and is_number(self.debounce) and 0 <= self.ttl < 1e9 and 0 <= self.debounce < 60):
            raise ConfigurationError(f"ttl={self.ttl!r} or debounce={self.debounce!r} is no number of seconds")


class ChannelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one channel, or of every channel of a pattern."""

    #: Publications that history shows (0: none), and for how many seconds.
    history_size: int = 100
    history_seconds: float = 86_400.0
    #: The treatment of a slow subscriber.
    slow: SlowPolicy = SlowPolicy.DISCONNECT
    #: The permissions of clients of a served protocol.
    subscribe: bool = True
    publish: bool = True
    #: Subscribers are members, which `presence` lists; their joins and leaves may be asked for, or are always pushed.
    presence: bool = False
    join_leave: bool = False
    force_join_leave: bool = False
    #: A subscriber is told of gaps (positioned) and may recover missed publications, when it asks or always.
    positioned: bool = True
    recoverable: bool = True
    force_positioned: bool = False
    force_recoverable: bool = False
    #: A recovery gives the newest publication alone: the channel holds a state, not a stream.
    latest: bool = False
    #: Publications may be sent as differences (fossil delta) to subscribers that ask for it, and chosen by tags.
    delta: bool = False
    tags_filter: bool = False
    #: Publications are not kept, unless one says otherwise.
    ephemeral: bool = False
    #: Clients may subscribe to it as to a map, and set entries where they may publish.
    map: MapOptions | None = None
    #: The beginnings of the names of maps, which go on with the channel's own name, of its connections and its users.
    clients_map: str = ""
    users_map: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.slow, SlowPolicy):
            raise ConfigurationError(f"slow={shown(self.slow)} is none; write SlowPolicy.DISCONNECT, LATEST or DROP")
        if type(self.history_size) is not int or not is_number(self.history_seconds):
            raise ConfigurationError(f"{self._shown_history()} are no numbers")
        if self.history_size < 0 or not self.history_seconds >= 0:
            raise ConfigurationError(f"{self._shown_history()} cannot be; write 0 for none")

    def _shown_history(self) -> str:
        return f"history of {shown(self.history_size)} publications for {shown(self.history_seconds)} seconds"

    @property
    def retention(self) -> Retention:
        """The retention that brokers are given."""
        return Retention(self.history_size, self.history_seconds)
