"""The requests and answers of the HTTP API. Payloads are `Raw`: the caller's own JSON, never decoded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tidewire.errors import LimitExceeded
from tidewire.limits import Limits
from tidewire.support.counters import count_limit

__all__ = ("Answer", "ApiError", "Payload", "Request", "Result", "too_many")

#: The largest whole number that every JSON reader knows (RFC 8259 section 6).
_MOST = 2**53 - 1
#: Any JSON value, kept as it was written.
Payload = Annotated[msgspec.Raw, WithJsonSchema({"description": "any JSON value"})]
Channel = Annotated[str, Field(min_length=1, description="The name of a channel.", examples=["room:1"])]
User = Annotated[str, Field(description='The user of the connections; "" for those without.', examples=["42"])]
ClientId = Annotated[str, Field(description="Only the connection with this id.")]
SessionId = Annotated[str, Field(description="Only the connection of this session.")]
Base64 = Annotated[str, Field(description="The same as base64, for data that is not JSON.")]


class _Model(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, frozen=True)


class Request(_Model):
    """The body of a call; fields that are not known are ignored."""

    #: Fields that are kept as they were written.
    payloads: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def parse(cls, body: bytes, *, items: int = Limits().api_items) -> Any:
        """Return the request that JSON holds, with so many items in a list at most.

        Raises LimitExceeded, and msgspec's and pydantic's errors.
        """
        fields = msgspec.json.decode(body or b"{}", type=_fields_of(cls))
        given: dict[str, Any] = {}
        for name in fields.__struct_fields__:
            raw: msgspec.Raw = getattr(fields, name)
            if raw is _LEFT_OUT or (bytes(raw) == b"null" and name != "data"):
                continue
            if name not in cls.payloads:
                given[name] = _decoded(f"`{name}`", raw, items)
            else:
                given[name] = raw
        return cls.model_validate(given)


_LEFT_OUT = msgspec.Raw(b"")
#: Commas for each item of a list that is not too long.
_COMMAS = 10


@cache
def _fields_of(model: type[Request]) -> type[msgspec.Struct]:
    """Return a type with the fields of a request as they were written; others cost nothing."""
    return msgspec.defstruct("Given", [(name, msgspec.Raw, _LEFT_OUT) for name in model.model_fields])


def _decoded(what: str, raw: msgspec.Raw, most: int) -> Any:
    """Return a value with so many items at most; a value with many more is not even decoded."""
    commas = bytes(raw).count(b",")
    if commas <= most * _COMMAS:
        value = msgspec.json.decode(raw)
        if not isinstance(value, list | dict) or len(value) <= most:
            return value
        commas = len(value) - 1
    raise too_many(what, commas + 1, most)


def too_many(what: str, count: int, most: int) -> LimitExceeded:
    """Return the error for a list that is longer than one call may have."""
    count_limit("api_items")
    return LimitExceeded(f"{what} has {count} items; one call has at most {most} (api_items): make several")


class Result(_Model):
    """The answer to a call; fields that were not set are left out."""


class ApiError(_Model):
    """Why a call failed: a number for programs, words for people, and the fault of this call."""

    code: int
    message: str
    detail: str | list[Any] = ""


R = TypeVar("R", bound=Result)


class Answer(_Model, Generic[R]):
    """Either a result or an error; the status is 200 in both cases."""

    result: R | None = None
    error: ApiError | None = None


class StreamPosition(_Model):
    """A place in a channel's history."""

    offset: int = Field(default=0, ge=0, le=_MOST)
    epoch: str = ""


class Flag(_Model):
    """Whether an option is on."""

    value: bool


class OptionsOverride(_Model):
    """Options of the channel that differ for this subscription."""

    presence: Flag | None = None
    join_leave: Flag | None = None
    force_push_join_leave: Flag | None = None
    force_recovery: Flag | None = None
    force_positioning: Flag | None = None


class _Publishing(Request):
    payloads = frozenset({"data"})

    data: Payload | None = Field(default=None, description="The message to publish.", examples=[{"text": "hello"}])
    b64data: Base64 = ""
    skip_history: bool = Field(default=False, description="Only for current subscribers.")
    ephemeral: bool | None = Field(default=None, description="Not kept at all; null: by the channel's options.")
    but_not: str = Field(default="", description="The id of a client that does not get it: the sender.")
    tags: Mapping[str, str] = Field(default={}, description="Words that subscribers can filter by.")
    idempotency_key: str = Field(default="", description="The same key in a channel is published once in five minutes.")
    delta: bool = Field(default=False, description="Accepted; subscribers that have negotiated deltas get them.")
    version: int = Field(default=0, ge=0, description="Published only if that of the newest is smaller.")
    version_epoch: str = Field(default="", description="Versions of another epoch do not compare.")


class PublishRequest(_Publishing):
    """Publish in one channel."""

    channel: Channel


class BroadcastRequest(_Publishing):
    """Publish the same in many channels."""

    channels: list[Channel] = Field(min_length=1, examples=[["room:1", "room:2"]])


class SubscribeRequest(Request):
    """Subscribe connections of a user to a channel."""

    payloads = frozenset({"data", "info"})

    user: User
    channel: Channel
    client: ClientId = ""
    session: SessionId = ""
    info: Payload | None = None
    b64info: Base64 = ""
    data: Payload | None = None
    b64data: Base64 = ""
    expire_at: int = Field(default=0, ge=0, description="When it ends, in seconds since 1970; 0: never.")
    recover_since: StreamPosition | None = None
    override: OptionsOverride | None = None


class UnsubscribeRequest(Request):
    """Unsubscribe connections of a user from a channel."""

    user: User
    channel: Channel
    client: ClientId = ""
    session: SessionId = ""


class DisconnectData(_Model):
    """The close code and its reason."""

    code: int = Field(ge=3000, le=4999)
    reason: str = Field(default="", max_length=120)


class DisconnectRequest(Request):
    """End connections of a user."""

    user: User
    client: ClientId = ""
    session: SessionId = ""
    whitelist: list[str] = Field(default=[], description="Ids of connections that stay.")
    disconnect: DisconnectData | None = None


class RevokeRequest(Request):
    """End tokens before they expire: one by its id, or those of a user that were issued before a time."""

    user: str = Field(default="", description="Whose tokens end.", examples=["ann"])
    jti: str = Field(default="", description="The id of one token.")
    issued_before: float = Field(default=0.0, ge=0, description="In seconds since 1970; 0: now.", allow_inf_nan=False)


class RefreshRequest(Request):
    """Set how long connections of a user go on, or expire them."""

    payloads = frozenset({"info"})

    user: User
    client: ClientId = ""
    session: SessionId = ""
    expired: bool = False
    expire_at: int = Field(default=0, ge=0, description="When they end, in seconds since 1970; 0: never.")
    info: Payload | None = None


class _ChannelRequest(Request):
    channel: Channel


class PresenceRequest(_ChannelRequest):
    """Ask for the members of a channel, on all nodes."""


class PresenceStatsRequest(_ChannelRequest):
    """Ask for the number of members of a channel, on all nodes."""


class HistoryRemoveRequest(_ChannelRequest):
    """Remove the history of a channel; its position stays."""


class HistoryRequest(Request):
    """Read the publications of a channel."""

    channel: Channel
    limit: int = Field(
        default=0, ge=-_MOST, le=_MOST, description="How many; 0: the position alone; less: all.", examples=[10]
    )
    since: StreamPosition | None = None
    reverse: bool = Field(default=False, description="The newest first.")


class ChannelsRequest(Request):
    """Ask which channels have subscribers."""

    pattern: str = Field(default="", description="Names with * and ?; empty: all.", examples=["room:*"])


class InfoRequest(Request):
    """Ask about the nodes."""


class RpcRequest(Request):
    """Call an extension."""

    payloads = frozenset({"params"})

    method: str = Field(min_length=1, description="Its name.", examples=["add"])
    params: Payload | None = None


class BatchRequest(Request):
    """Several calls in one; each command is `{"method": {…}}`."""

    payloads = frozenset({"commands"})

    commands: Payload = Field(examples=[[{"publish": {"channel": "room:1", "data": {"text": "hello"}}}]])
    parallel: bool = Field(default=False, description="Do not wait for one before the next.")


class Empty(Result):
    """Done."""


class PublishResult(Result):
    """The position in the channel's history; nothing for a channel without history."""

    offset: int = 0
    epoch: str = ""


class BroadcastResult(Result):
    """One answer for each channel, in their order."""

    responses: list[Answer[PublishResult]]


class ClientInfo(Result):
    """A connection: its user, and the claims of its tokens."""

    user: str
    client: str
    conn_info: Payload | None = None
    chan_info: Payload | None = None


class PresenceResult(Result):
    """Connections by their ids."""

    presence: dict[str, ClientInfo]


class PresenceStatsResult(Result):
    """Connections, and different users."""

    num_clients: int
    num_users: int


class PublicationResult(Result):
    """One publication; `info` when a client published it."""

    data: Payload
    offset: int
    tags: dict[str, str] = {}
    info: ClientInfo | None = None


class HistoryResult(Result):
    """Publications, and the position of the newest."""

    publications: list[PublicationResult]
    offset: int
    epoch: str


class ChannelInfo(Result):
    """The number of subscribers of a channel."""

    num_clients: int


class ChannelsResult(Result):
    """Channels by name."""

    channels: dict[str, ChannelInfo]


class NodeInfo(Result):
    """One process of the server."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int


class InfoResult(Result):
    """All processes of the server."""

    nodes: list[NodeInfo]


class RpcResult(Result):
    """The answer of the extension."""

    data: Payload | None = None


class BatchResult(Result):
    """One reply for each command, in their order: `{"method": {…}}`, or `{"error": {…}}`."""

    replies: list[dict[str, Any]]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
    raise TypeError(f"{type(value).__name__} is no type that JSON knows")


#: Writes the fields that were set in results, and payloads as they came.
encode = msgspec.json.Encoder(enc_hook=_plain).encode
