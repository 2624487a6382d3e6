"""The limits of a node."""

from __future__ import annotations

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.support.shown_value import shown

__all__ = ("MAY_BE_ZERO", "Limits", "is_number")

#: Limits that may be zero: nothing is bounded, pinged, spread or filled, or each turn takes one step.
MAY_BE_ZERO = frozenset(
    {
        "rate_per_user",
        "memory_bytes",
        "ping_seconds",
        "drain_seconds",
        "gap_messages",
        "gap_bytes",
        "turn_seconds",
        "grace_seconds",
        "ephemeral_seconds",
    }
)
#: The rate of a user as a multiple of a connection's, where no limit says otherwise.
_CONNECTIONS_OF_USER = 5


def is_number(value: object) -> bool:
    """Return whether a value is a number, which no truth value is."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit of a node, with its default. Reaching one is counted under its name in `statistics()`.

    All are greater than 0; `rate_per_user`, `memory_bytes`, `ping_seconds`, `drain_seconds`, `turn_seconds`,
    `grace_seconds`, `ephemeral_seconds` and those of a gap may be 0. Raises ConfigurationError for others.
    """

    #: Bytes of one inbound message.
    message_size: int = 65_536
    #: Bytes that a connection has not yet taken, left from earlier turns of the loop.
    outbox_bytes: int = 1_048_576
    #: Messages that a connection has not yet taken, left from earlier turns of the loop.
    outbox_messages: int = 4_096
    #: Bytes received and not yet handled, at which reading pauses.
    inbox_bytes: int = 65_536
    #: Seconds within which the last messages of a client that left are handled; then it counts as gone anyway.
    leaving_seconds: float = 5.0
    #: Channels of one connection.
    channels: int = 128
    #: Characters of a channel name.
    channel_name: int = 255
    #: Connections of one node.
    connections: int = 10_000
    #: Readers of channels in the code of one node's application: `hub.listen`, event streams, maps in use.
    readers: int = 10_000
    #: Maps of one node that are in use because clients of one user, or of one address without a user, asked for them.
    maps_per_user: int = 256
    #: Connections of one user, on all nodes.
    connections_per_user: int = 32
    #: Connections from one address, and HTTP requests of it at once, of all processes of a machine; those of other
    #: machines count as they were some seconds ago. A /64 of IPv6 is one address, loopback is exempt.
    connections_per_address: int = 256
    #: Bytes of resident memory of one process, at which newcomers are refused; 0: no limit.
    memory_bytes: int = 0
    #: Steps of newcomers that one turn of the loop begins: first requests, first messages, recoveries.
    arrivals: int = 16
    #: Inbound messages per second of one connection, and how many may come at once.
    rate: float = 100.0
    burst: int = 200
    #: Inbound messages per second of all connections of one user, counted likewise; 0: five times `rate`.
    rate_per_user: float = 0.0
    #: Bytes of a request's headers, and the seconds within which they must be complete.
    header_bytes: int = 32_768
    header_seconds: float = 5.0
    #: Seconds for a request's body, and for a message from its first byte to its last, and one more for each so many
    #: bytes of it that have come.
    body_seconds: float = 20.0
    message_seconds: float = 10.0
    body_rate: float = 512.0
    #: Requests of one HTTP connection that wait for the answer to the one before them.
    pipelined: int = 16
    #: Seconds for the first-message authentication.
    auth_seconds: float = 10.0
    #: Fragments of one message, empty ones counted.
    fragments: int = 1_024
    #: Seconds between pings, and within which the pong must come.
    ping_seconds: float = 25.0
    pong_seconds: float = 10.0
    #: Seconds in which a peer must accept at least one of the bytes that wait for it.
    stalled_seconds: float = 10.0
    #: Bytes of a publication that nobody keeps, and the seconds over which those of a channel are joined.
    ephemeral_bytes: int = 65_536
    ephemeral_seconds: float = 0.033
    #: Bytes of the text of one text stream.
    stream_bytes: int = 524_288
    #: Bytes of the entries of one map.
    map_bytes: int = 262_144
    #: Keys of polled values that one connection tracks, and all of one node in one channel; bytes of their values that
    #: are kept for those who come later.
    poll_keys_per_connection: int = 1_000
    poll_keys: int = 10_000
    poll_bytes: int = 4_194_304
    #: Nesting of inbound JSON.
    json_depth: int = 64
    #: Seconds over which a drain spreads its closes.
    drain_seconds: float = 5.0
    #: Bytes of the body of a call of the HTTP API.
    api_bytes: int = 4_194_304
    #: Items of one list of such a body: channels of a broadcast, commands of a batch, tags.
    api_items: int = 2_000
    #: Bytes of a history or recovery reply, of a page of a map, and of all recoveries in the reply to a connect: a
    #: client asks for the next page, and the rest of a recovery is pushed behind the reply.
    reply_bytes: int = 1_048_576
    #: Bytes of all history and presence replies that one process reads and encodes at once; the others wait.
    replies_bytes: int = 16_777_216
    #: Publications of one history reply of a client protocol; a recovery has all.
    history_messages: int = 300
    #: Seconds for the application to return the state of a channel, or the values of polled keys.
    state_seconds: float = 10.0
    #: Threads of one node for those functions that are no coroutines.
    state_threads: int = 8
    #: Publishes of one connection that wait for the store at once; more are read when these are kept.
    publishes_in_flight: int = 64
    #: Calls and reads of one client that are answered beside its other commands; more are read when these are done.
    calls_in_flight: int = 16
    #: Traces that a worker begins in a second by itself, for commands and publishes that belong to none.
    traces_per_second: int = 100
    #: Commands of clients of other nodes that wait for that node's answer.
    relays: int = 1_000
    #: Conditions of one filter by tags.
    filter_nodes: int = 100
    #: Seconds within which the answer to a ping of the Centrifuge protocol must come.
    protocol_pong_seconds: float = 8.0
    #: Seconds for which a connection or subscription whose token has expired goes on, so that it can be refreshed.
    expiry_grace_seconds: float = 25.0
    #: The most that a gap may hold to be filled from history: messages, bytes.
    gap_messages: int = 1_000
    gap_bytes: int = 1_048_576
    #: Revocations of tokens that are kept, and the seconds for which each is: at least as long as tokens are good.
    revocations: int = 10_000
    revocation_seconds: float = 2_592_000.0
    #: Wrong passwords for one name from one network (or one known device) within `login_seconds`, and for all names.
    login_failures: int = 10
    login_failures_per_network: int = 100
    login_seconds: float = 60.0
    #: New accounts per hour from one network, and from all (of this machine's own, all count alone).
    signups_per_network: int = 20
    signups: int = 250
    #: Logins and sign-ups that wait for their password to be hashed.
    logins_waiting: int = 256
    #: Logins of one user that are good at once; the oldest ends.
    sessions_per_user: int = 100
    #: Rooms of the chat, and those that one user has made; a room ends when nobody has joined it for `room_seconds`.
    rooms: int = 10_000
    rooms_per_user: int = 100
    room_seconds: float = 2_592_000.0
    #: Bytes of the history of one channel (on nats:// those that each node has published), and of all channels of a
    #: store: the oldest publications go, and a reader that wanted them is told.
    channel_history_bytes: int = 16_777_216
    store_history_bytes: int = 1_073_741_824
    #: Seconds after which a publish that the store has not answered fails.
    publish_seconds: float = 2.0
    #: Seconds of the loop's time that one turn of fan-out may take.
    turn_seconds: float = 0.005
    #: Seconds after which a user who has gone counts as gone for events: one who is back by then never was away.
    grace_seconds: float = 5.0

    @property
    def user_rate(self) -> float:
        """Inbound messages per second of all connections of one user."""
        return self.rate_per_user or self.rate * _CONNECTIONS_OF_USER

    @property
    def user_burst(self) -> float:
        """How many messages a user may send at once."""
        return max(1.0, self.burst * self.user_rate / self.rate)

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not is_number(value) or not (0 < value < float("inf") or (value == 0 and name in MAY_BE_ZERO)):
                raise ConfigurationError(f"limit {name} is {shown(value)}; write a number greater than 0")
