"""Options of channels by namespace, which is the part of a name before its first colon.

The options have the names that Centrifugo gives them, so that a configuration moves over as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tidewire.channel_options import ChannelOptions, MapKind, MapOptions, SlowPolicy
from tidewire.channels import check_channel, is_internal
from tidewire.errors import BadRequest, UnknownChannel
from tidewire.rules.base import Action

__all__ = (
    "RESERVED",
    "ChannelTable",
    "Duration",
    "NamedNamespace",
    "Namespace",
    "Namespaces",
    "bare_name",
    "is_private",
    "limited_to",
)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
#: The namespaces of the chat and of the tutorial, which cannot be reached by a client protocol or the API.
_OF_THE_SERVER = ("room", "events", "tutorial")
#: Names of the server itself, which a configuration must not replace because its pages rely on them.
RESERVED = (*_OF_THE_SERVER, "playground")
#: Channel names whose options are cached.
_REMEMBERED = 10_000


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = _PART.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError('write seconds as a number, or a duration as "300s", "5m", "24h"')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


#: Seconds; written as a number, or as "300s", "5m", "1h30m".
Duration = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]


#: The default history of a map, within which a client that was away gets the changes alone.
_STREAM_SIZE, _STREAM_SECONDS = 1_000, 86_400.0


class MapTable(BaseModel):
    """The table `map` of a namespace whose `subscription_type` is a map."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    #: `ephemeral`: a client that was away gets all entries anew, instead of the changes that it missed.
    mode: Literal["", "ephemeral", "recoverable", "persistent"] = ""
    #: Seconds after which an entry expires that is not set again (0: never).
    key_ttl: Duration = 0.0
    #: The changes that are kept, and for how long.
    stream_size: int = Field(default=0, ge=0)
    stream_ttl: Duration = 0.0
    #: Accepted for Centrifugo's sake, because our stores keep positions longer.
    meta_ttl: Duration = 0.0
    #: An entry that a client sets leaves with it.
    remove_client_on_unsubscribe: bool = False
    #: The key of every entry that a client sets, instead of the one that it names.
    client_key: Literal["", "client_id", "user_id"] = ""
    allow_publish_for_client: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_anonymous: bool = False
    allow_remove_for_client: bool = False
    allow_remove_for_subscriber: bool = False
    allow_remove_for_anonymous: bool = False


class Namespace(BaseModel):
    """Options and permissions of the channels of one namespace."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    #: Publications that are kept (0: none), and for how long; without both there is no history.
    history_size: int = Field(default=0, ge=0)
    history_ttl: Duration = 0.0
    #: How long positions outlive the history; accepted for Centrifugo's sake, because our stores keep them longer.
    history_meta_ttl: Duration = 0.0
    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    force_recovery: bool = False
    allow_recovery: bool = False
    #: `cache`: a recovery gives the newest publication alone.
    force_recovery_mode: Literal["", "stream", "cache"] = ""
    force_positioning: bool = False
    allow_positioning: bool = False
    delta_publish: bool = False
    allowed_delta_types: list[Literal["fossil"]] = []
    allow_tags_filter: bool = False
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_client: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_anonymous: bool = False
    allow_history_for_client: bool = False
    allow_history_for_subscriber: bool = False
    allow_history_for_anonymous: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_subscriber: bool = False
    allow_presence_for_anonymous: bool = False
    #: To a channel such as `chat#ann,bob` only the users after the # may subscribe.
    allow_user_limited_channels: bool = False
    #: The `_for_client` permissions hold also in channels to which the client has no right to subscribe.
    allow_without_subscribe: bool = False
    #: The names that clients use (without the namespace) must match it.
    channel_regex: str = ""
    #: Publications are not kept; only current subscribers get them.
    ephemeral: bool = False
    #: Clients subscribe to a channel as to a map: of the entries that are set, or of the members of another channel.
    subscription_type: Literal["", "stream", "map", "map_clients", "map_users"] = ""
    #: The options of a map; true is all defaults, and the type `map`.
    map: bool | MapTable = False
    #: The prefixes of the names of two maps of a channel's members: by connection, and by user.
    map_clients_presence_channel_prefix: str = ""
    map_users_presence_channel_prefix: str = ""
    #: The time over which SDKs join the changes to one key of a map.
    client_publish_debounce_interval: Duration = 0.0
    #: The policy for slow subscribers.
    slow: Literal["disconnect", "latest", "drop"] = "disconnect"

    @model_validator(mode="after")
    def _check(self) -> Namespace:
        if (self.force_recovery or self.allow_recovery) and not self.has_history:
            raise ValueError("recovery needs history: set history_size and history_ttl too")
        try:
            re.compile(self.channel_regex)
        except re.error as error:
            raise ValueError(f"channel_regex {self.channel_regex!r} is no regular expression: {error}") from None
        return self

    @property
    def has_history(self) -> bool:
        """Whether publications are kept."""
        size, seconds = self._history
        return size > 0 and seconds > 0

    @property
    def _history(self) -> tuple[int, float]:
        """Return how many publications are kept, and for how long."""
        if not self.is_map:
            return self.history_size, self.history_ttl
        table = self._map_table
        size = table.stream_size or self.history_size or _STREAM_SIZE
        return size, table.stream_ttl or self.history_ttl or _STREAM_SECONDS

    @property
    def is_map(self) -> bool:
        """Whether clients subscribe to a channel as to a map."""
        return self.subscription_type.startswith("map") or (not self.subscription_type and self.map is not False)

    @property
    def _map_table(self) -> MapTable:
        return self.map if isinstance(self.map, MapTable) else MapTable()

    @property
    def _map_options(self) -> MapOptions | None:
        if not self.is_map:
            return None
        table = self._map_table
        return MapOptions(
            kind=MapKind(self.subscription_type or "map"),
            ttl=table.key_ttl,
            recoverable=table.mode != "ephemeral",
            owned=table.remove_client_on_unsubscribe,
            client_key=table.client_key,
            debounce=self.client_publish_debounce_interval,
        )

    @property
    def options(self) -> ChannelOptions:
        """The options as the engine takes them."""
        recoverable = self.force_recovery or self.allow_recovery or self.is_map
        size, seconds = self._history if self.has_history else (0, 0.0)
        return ChannelOptions(
            history_size=size,
            history_seconds=seconds,
            slow=SlowPolicy(self.slow),
            presence=self.presence,
            join_leave=self.join_leave or self.force_push_join_leave,
            force_join_leave=self.force_push_join_leave,
            positioned=self.allow_positioning or self.force_positioning or recoverable,
            recoverable=recoverable,
            force_positioned=self.force_positioning,
            force_recoverable=self.force_recovery,
            latest=self.force_recovery_mode == "cache",
            delta="fossil" in self.allowed_delta_types,
            tags_filter=self.allow_tags_filter,
            ephemeral=self.ephemeral,
            map=self._map_options,
            clients_map=self.map_clients_presence_channel_prefix,
            users_map=self.map_users_presence_channel_prefix,
        )

    def names(self, name: str) -> bool:
        """Return whether a name (without its namespace) matches `channel_regex`."""
        return not self.channel_regex or re.search(self.channel_regex, name) is not None

    def granted(self, options: ChannelOptions, *, reads_history: bool) -> ChannelOptions:
        """Return the options of a subscriber: if it may read the history, it may also be positioned and recover."""
        if not self.has_history or not reads_history:
            return options
        return msgspec.structs.replace(options, positioned=True, recoverable=True)

    def allows(self, action: Action, *, is_anonymous: bool, subscribed: bool) -> bool:
        """Return whether a client may do it."""
        if is_anonymous and not self._grants(action, "anonymous"):
            return False
        return self._grants(action, "client") or (subscribed and self._grants(action, "subscriber"))

    def _grants(self, action: Action, to: str) -> bool:
        name = f"allow_{action.value}_for_{to}"
        table = self.map if self.is_map and isinstance(self.map, MapTable) else None
        granted: bool = getattr(self, name, False) or getattr(table, name, False)
        if action is Action.REMOVE and table is None:  # a client that may set entries may remove them
            return self._grants(Action.PUBLISH, to)
        return granted


class NamedNamespace(Namespace):
    """A namespace with its name; its channels are `name:…`."""

    name: str = Field(pattern=r"^[-a-zA-Z0-9_.]{2,}$")


class ChannelTable(BaseModel):
    """The table `[channel]`: the namespaces, and the options of names without one."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    without_namespace: Namespace = Namespace()
    namespaces: list[NamedNamespace] = []

    @model_validator(mode="after")
    def _check(self) -> ChannelTable:
        names = [namespace.name for namespace in self.namespaces]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"namespace {name!r} is there twice; keep one")
            if name in RESERVED:
                raise ValueError(f"namespace {name!r} belongs to the server itself; choose another name")
        return self


class Namespaces:
    """Finds the namespace and the options of a channel."""

    __slots__ = ("_default", "_found", "_limit", "_named")

    def __init__(self, table: ChannelTable, *, channel_name: int = 255) -> None:
        self._named = {namespace.name: (namespace, namespace.options) for namespace in table.namespaces}
        self._default = (table.without_namespace, table.without_namespace.options)
        self._limit = channel_name
        self._found: dict[str, tuple[Namespace, ChannelOptions]] = {}

    def find(self, channel: str) -> tuple[Namespace, ChannelOptions]:
        """Return the namespace of a channel and its options; raises UnknownChannel, BadRequest."""
        found = self._found.get(channel)
        if found is None:
            found = self._find(channel)
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[channel] = found
        return found

    def options(self, channel: str) -> ChannelOptions | None:
        """Return the options of a channel, or None for a name that belongs to no namespace."""
        try:
            return self.find(channel)[1]
        except (UnknownChannel, BadRequest):
            return None

    def pattern(self, channel: str) -> str:
        """Return the pattern of the channels that share a channel's options: its namespace, or none."""
        name, boundary, _ = channel.removeprefix("$").partition(":")
        return f"{name}:*" if boundary else "*"

    def _find(self, channel: str) -> tuple[Namespace, ChannelOptions]:
        if is_internal(check_channel(channel, self._limit)):
            raise UnknownChannel(f"channel {channel!r} belongs to the server; choose another name")
        name, boundary, _ = channel.removeprefix("$").partition(":")
        if not boundary or not name:
            return self._default
        named = self._named.get(name)
        if named is None:
            raise UnknownChannel(f"no namespace {name!r}; add it to [[channel.namespaces]]")
        return named


def is_private(channel: str) -> bool:
    """Return whether subscribing to a channel needs a token."""
    return channel.startswith("$")


def limited_to(channel: str) -> Sequence[str]:
    """Return the users that a name as `chat#ann,bob` lists; none for other names."""
    _, boundary, users = channel.rpartition("#")
    return users.split(",") if boundary else ()


def bare_name(channel: str) -> str:
    """Return a channel's name without its namespace."""
    _, boundary, rest = channel.partition(":")
    return rest if boundary else channel
