"""The messages of the Centrifuge protocol, in one form for both encodings.

Fields that have their default are left out; fields without a default are always written. Payloads are `Raw`: the
client's own text (JSON) or bytes (Protobuf), never decoded.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

__all__ = ("EMPTY", "Command", "Push", "Reply", "raw")

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Meta(ge=0)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

EMPTY = Raw(b"")  # no payload


def raw(data: bytes) -> Raw:
    """Return bytes as a payload."""
    return Raw(data) if data else EMPTY


class _Message(Struct, frozen=True, omit_defaults=True):
    """One message of the schema."""


class Error(_Message, frozen=True):
    """The answer to a command that failed."""

    code: UInt32
    message: str
    temporary: bool = False


class ClientInfo(_Message, frozen=True):
    """The publisher, or the member that joined or left: the user, the connection, and the infos in its tokens."""

    user: str
    client: str
    conn_info: Raw = EMPTY
    chan_info: Raw = EMPTY


class Publication(_Message, frozen=True):
    """One publication as it is pushed or replied; `delta`: the data is a patch of the one before.

    In a map it is the entry of a `key`, which may be `removed`; of polled values, one with its `version`.
    """

    data: Raw = EMPTY
    info: ClientInfo | None = None
    offset: UInt64 = 0
    tags: dict[str, str] = {}
    delta: bool = False
    time: Int64 = 0
    channel: str = ""
    key: str = ""
    removed: bool = False
    version: UInt64 = 0


class StreamPosition(_Message, frozen=True):
    """A place in a channel's history."""

    offset: UInt64 = 0
    epoch: str = ""


class FilterNode(_Message, frozen=True):
    """A condition on a publication's tags: a comparison (`op` empty), or `and`, `or`, `not` over `nodes`."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[FilterNode] = []


# Sent by a client.


class SubscribeRequest(_Message, frozen=True):
    """Subscribe to a channel; with `recover`, from a position on. `flag` 2: answer an error instead of a gap.

    `type` 1: to a map, of which `phase` 2 asks for all entries, and 1 for missed changes; 4: to polled values.
    """

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: UInt64 = 0
    data: Raw = EMPTY
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: FilterNode | None = None
    flag: Int64 = 0
    type: Int32 = 0
    phase: Int32 = 0
    cursor: str = ""
    limit: Int32 = 0


class ConnectRequest(_Message, frozen=True):
    """Begin; `subs` are the positions of subscriptions that the server has chosen."""

    token: str = ""
    data: Raw = EMPTY
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}


class UnsubscribeRequest(_Message, frozen=True):
    """Unsubscribe from a channel."""

    channel: str = ""


class PublishRequest(_Message, frozen=True):
    """Publish in a channel; with `type` 1, set or remove the entry of a `key`."""

    channel: str = ""
    data: Raw = EMPTY
    type: Int32 = 0
    key: str = ""
    removed: bool = False


class PresenceRequest(_Message, frozen=True):
    """Ask for the members of a channel."""

    channel: str = ""


class PresenceStatsRequest(_Message, frozen=True):
    """Ask for the number of members of a channel."""

    channel: str = ""


class HistoryRequest(_Message, frozen=True):
    """Ask for publications: so many (0: none, only the position; less: all), after `since`, or before it."""

    channel: str = ""
    limit: Int32 = 0
    since: StreamPosition | None = None
    reverse: bool = False


class SendRequest(_Message, frozen=True):
    """A message that asks for no answer."""

    data: Raw = EMPTY


class RpcRequest(_Message, frozen=True):
    """Call the application."""

    data: Raw = EMPTY
    method: str = ""


class RefreshRequest(_Message, frozen=True):
    """Go on with another token."""

    token: str = ""


class TrackedKey(_Message, frozen=True):
    """A key of polled values, and the version of its value that the client has."""

    key: str = ""
    version: UInt64 = 0


class TrackBatch(_Message, frozen=True):
    """Keys that are signed together."""

    signature: str = ""
    items: list[TrackedKey] = []


class SubRefreshRequest(_Message, frozen=True):
    """Go on in a channel with another token; with `type` 1, track keys, and untrack others; with 2, untrack alone."""

    channel: str = ""
    token: str = ""
    type: Int32 = 0
    track: list[TrackBatch] = []
    untrack: list[str] = []


class Command(_Message, frozen=True):
    """One command: an id and one method, or `send` without an id, or nothing at all (a pong)."""

    id: UInt32 = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class EmulationRequest(_Message, frozen=True):
    """Commands of a client that listens to a stream: text in a JSON string, or the binary frame."""

    node: str = ""
    session: str = ""
    data: Raw = EMPTY


# Answers of the server.


class SubscribeResult(_Message, frozen=True):
    """The state of the subscriber: its position, and missed publications; of a map, a page of entries (`phase` 2)."""

    expires: bool = False
    ttl: UInt32 = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: UInt64 = 0
    positioned: bool = False
    data: Raw = EMPTY
    was_recovering: bool = False
    delta: bool = False
    type: Int32 = 0
    phase: Int32 = 0
    cursor: str = ""
    state: list[Publication] = []
    publish_debounce: UInt32 = 0


class ConnectResult(_Message, frozen=True):
    """The identity of the client now, and its subscriptions by the server."""

    client: str
    version: str
    expires: bool = False
    ttl: UInt32 = 0
    data: Raw = EMPTY
    subs: dict[str, SubscribeResult] = {}
    ping: UInt32 = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class UnsubscribeResult(_Message, frozen=True):
    """Done."""


class PublishResult(_Message, frozen=True):
    """The publication is kept."""


class PresenceResult(_Message, frozen=True):
    """Connections by their ids."""

    presence: dict[str, ClientInfo]


class PresenceStatsResult(_Message, frozen=True):
    """Connections, and different users."""

    num_clients: UInt32
    num_users: UInt32


class HistoryResult(_Message, frozen=True):
    """Publications, and the position of the newest."""

    publications: list[Publication]
    epoch: str
    offset: UInt64


class RpcResult(_Message, frozen=True):
    """The answer of the application."""

    data: Raw = EMPTY


class RefreshResult(_Message, frozen=True):
    """How long the connection may go on."""

    client: str
    version: str
    expires: bool = False
    ttl: UInt32 = 0


class SubRefreshResult(_Message, frozen=True):
    """How long the subscription may go on."""

    expires: bool = False
    ttl: UInt32 = 0


# Pushes of the server.


class Join(_Message, frozen=True):
    """Somebody has come."""

    info: ClientInfo


class Leave(_Message, frozen=True):
    """Somebody has gone."""

    info: ClientInfo


class Unsubscribe(_Message, frozen=True):
    """The subscription has ended."""

    code: UInt32
    reason: str


class Disconnect(_Message, frozen=True):
    """The connection ends; for transports without a close frame."""

    code: UInt32
    reason: str


class Message(_Message, frozen=True):
    """Something for this client alone."""

    data: Raw = EMPTY


class Subscribe(_Message, frozen=True):
    """The server has subscribed the client to a channel."""

    recoverable: bool = False
    epoch: str = ""
    offset: UInt64 = 0
    positioned: bool = False
    data: Raw = EMPTY


class Refresh(_Message, frozen=True):
    """How long the connection may go on."""

    expires: bool = False
    ttl: UInt32 = 0


class Push(_Message, frozen=True):
    """Something of a channel, or of the connection (then without one)."""

    channel: str = ""
    pub: Publication | None = None
    join: Join | None = None
    leave: Leave | None = None
    unsubscribe: Unsubscribe | None = None
    message: Message | None = None
    subscribe: Subscribe | None = None
    connect: ConnectResult | None = None
    disconnect: Disconnect | None = None
    refresh: Refresh | None = None


class Reply(_Message, frozen=True):
    """The answer to the command with this id; without an id a push, or (empty) a ping."""

    id: UInt32 = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: UnsubscribeResult | None = None
    publish: PublishResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    rpc: RpcResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
