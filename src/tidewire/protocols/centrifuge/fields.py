"""The Protobuf schema: which field of a message has which number, and how it is written."""

from __future__ import annotations

from enum import IntEnum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Raw, Struct
from msgspec.structs import fields

from tidewire.protocols.centrifuge import messages as m

__all__ = ("Field", "Kind", "Schema", "schema_of")


_VARINT, _LENGTH = 0, 2


class Kind(IntEnum):
    """How a field is written (protobuf.dev/programming-guides/encoding)."""

    UINT32 = 0
    UINT64 = 1
    INT = 2
    BOOL = 3
    TEXT = 4
    BYTES = 5
    MESSAGE = 6
    TEXTS = 7
    MESSAGES = 8
    TEXT_MAP = 9
    MESSAGE_MAP = 10


class Field:
    """One field: `cls` is the message inside, `zero` its value when it is left out, `key` the bytes before it."""

    __slots__ = ("cls", "key", "kind", "name", "number", "zero")

    def __init__(self, name: str, number: int, kind: Kind, cls: type[Struct] | None) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        self.cls = cls
        self.zero: Any = _ZEROS.get(kind)
        key = number << 3 | (_VARINT if kind <= Kind.BOOL else _LENGTH)
        self.key = bytes((key,)) if key < 0x80 else bytes((key & 0x7F | 0x80, key >> 7))


class Schema:
    """The fields of one message, and those that a decoded message needs even if they were left out."""

    __slots__ = ("by_number", "fields", "required")

    def __init__(self, found: list[Field], cls: type[Struct]) -> None:
        self.fields = found
        self.by_number = {field.number: field for field in found}
        always = {
            field.name for field in fields(cls) if field.default is NODEFAULT and field.default_factory is NODEFAULT
        }
        self.required = {field.name: field for field in found if field.name in always}


_ZEROS = {Kind.UINT32: 0, Kind.UINT64: 0, Kind.INT: 0, Kind.BOOL: False, Kind.TEXT: "", Kind.BYTES: m.EMPTY}
_SCALARS: dict[Any, Kind] = {
    m.UInt32: Kind.UINT32,
    m.UInt64: Kind.UINT64,
    m.Int32: Kind.INT,
    m.Int64: Kind.INT,
    bool: Kind.BOOL,
    str: Kind.TEXT,
    Raw: Kind.BYTES,
    list[str]: Kind.TEXTS,
    dict[str, str]: Kind.TEXT_MAP,
}
#: The numbers as the protocol's schema gives them.
_NUMBERS: dict[type[Struct], str] = {
    m.Error: "code1 message2 temporary3",
    m.ClientInfo: "user1 client2 conn_info3 chan_info4",
    m.Publication: "data4 info5 offset6 tags7 delta8 time9 channel10 key11 removed12 version16",
    m.StreamPosition: "offset1 epoch2",
    m.FilterNode: "op1 key2 cmp3 val4 vals5 nodes6",
    m.SubscribeRequest: "channel1 token2 recover3 epoch6 offset7 data8 positioned9 recoverable10 join_leave11 delta12"
    " tf13 flag14 type15 phase16 cursor17 limit18",
    m.ConnectRequest: "token1 data2 subs3 name4 version5 headers6",
    m.UnsubscribeRequest: "channel1",
    m.PublishRequest: "channel1 data2 type3 key4 removed5",
    m.PresenceRequest: "channel1",
    m.PresenceStatsRequest: "channel1",
    m.HistoryRequest: "channel1 limit7 since8 reverse9",
    m.SendRequest: "data1",
    m.RpcRequest: "data1 method2",
    m.RefreshRequest: "token1",
    m.TrackedKey: "key1 version2",
    m.TrackBatch: "signature1 items2",
    m.SubRefreshRequest: "channel1 token2 type3 track4 untrack5",
    m.Command: "id1 connect4 subscribe5 unsubscribe6 publish7 presence8 presence_stats9 history10 send12 rpc13"
    " refresh14 sub_refresh15",
    m.EmulationRequest: "node1 session2 data3",
    m.SubscribeResult: "expires1 ttl2 recoverable3 epoch6 publications7 recovered8 offset9 positioned10 data11"
    " was_recovering12 delta13 type15 phase16 cursor17 state18 publish_debounce19",
    m.ConnectResult: "client1 version2 expires3 ttl4 data5 subs6 ping7 pong8 session9 node10",
    m.UnsubscribeResult: "",
    m.PublishResult: "",
    m.PresenceResult: "presence1",
    m.PresenceStatsResult: "num_clients1 num_users2",
    m.HistoryResult: "publications1 epoch2 offset3",
    m.RpcResult: "data1",
    m.RefreshResult: "client1 version2 expires3 ttl4",
    m.SubRefreshResult: "expires1 ttl2",
    m.Join: "info1",
    m.Leave: "info1",
    m.Unsubscribe: "code2 reason3",
    m.Disconnect: "code1 reason2",
    m.Message: "data1",
    m.Subscribe: "recoverable1 epoch4 offset5 positioned6 data7",
    m.Refresh: "expires1 ttl2",
    m.Push: "channel2 pub4 join5 leave6 unsubscribe7 message8 subscribe9 connect10 disconnect11 refresh12",
    m.Reply: "id1 error2 push4 connect5 subscribe6 unsubscribe7 publish8 presence9 presence_stats10 history11 rpc13"
    " refresh14 sub_refresh15",
}


def _kind(hint: Any) -> tuple[Kind, type[Struct] | None]:
    """Return how a field of this type is written, and the message that it holds."""
    if hint in _SCALARS:
        return _SCALARS[hint], None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return Kind.MESSAGE, arguments[0]
    if origin is list:
        return Kind.MESSAGES, arguments[0]
    if origin is dict:
        return Kind.MESSAGE_MAP, arguments[1]
    return Kind.MESSAGE, hint


def _schema(cls: type[Struct], numbers: str) -> Schema:
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for word in numbers.split():
        name = word.rstrip("0123456789")
        found.append(Field(name, int(word[len(name) :]), *_kind(hints[name])))
    return Schema(found, cls)


_SCHEMAS = {cls: _schema(cls, numbers) for cls, numbers in _NUMBERS.items()}


def schema_of(cls: type[Struct]) -> Schema:
    """Return the schema of a message."""
    return _SCHEMAS[cls]
