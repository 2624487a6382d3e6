"""JSON ↔ messages ↔ Protobuf: nothing is lost or made up, and bytes from strangers are decoded or refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from protocols.centrifuge.strategies import commands, message, replies
from tidewire.errors import BadRequest, Disconnect, LimitExceeded, RateLimited, Refused, StoreUnavailable
from tidewire.messages import Dropped, EphemeralPublication, Format, Position, Publication, Subscribed, WireMessage
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame
from tidewire.protocols.centrifuge.encoding import CentrifugeJson, CentrifugeProtobuf, CentrifugeProtocol
from tidewire.protocols.centrifuge.fields import schema_of
from tidewire.protocols.centrifuge.messages import Command, Push, Reply, raw
from tidewire.protocols.centrifuge.protobuf import (
    decode_frame,
    decode_message,
    decode_publish,
    encode_delimited,
    encode_fields,
    encode_message,
    varint,
)
from tidewire.protocols.meta import PublicationMeta

JSON, PROTOBUF = CentrifugeJson(), CentrifugeProtobuf()
both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])


@settings(deadline=None)
@given(st.lists(commands, min_size=1, max_size=3))
def test_commands_mean_the_same_in_both_encodings(sent: list[Command]) -> None:
    text = b"\n".join(msgspec.json.encode(command) for command in sent)
    assert b"\n\n" not in text
    from_json = JSON.decode(text.decode())
    assert from_json == sent
    assert PROTOBUF.decode(b"".join(encode_delimited(command) for command in from_json)) == sent


@settings(deadline=None)
@given(message(m.Publication) | message(m.ClientInfo), st.booleans())
@example(m.Publication(raw(b"1"), m.ClientInfo("", "c", raw(b"{}"), raw(b"[]")), 300, key="k" * 200), True)
def test_the_short_way_of_what_replies_hold_most_writes_the_same(one: m.Publication | m.ClientInfo, few: bool) -> None:
    if few and isinstance(one, m.Publication):
        one = m.Publication(one.data, one.info, one.offset, key=one.key)
    short = encode_message(one)
    assert decode_message(type(one), short) == one
    assert sorted(short) == sorted(encode_fields(one))


@settings(deadline=None)
@given(st.lists(replies, min_size=1, max_size=3))
def test_replies_mean_the_same_in_both_encodings(sent: list[Reply]) -> None:
    message = PROTOBUF.encode_replies(sent)
    assert message.binary
    assert decode_frame(Reply, message.data, depth=64) == sent
    lines = JSON.encode_replies(sent).data.split(b"\n")
    assert [msgspec.json.decode(line, type=Reply) for line in lines] == sent


def test_every_field_has_a_number_of_its_own_and_stands_in_its_place() -> None:
    for cls in (getattr(m, name) for name in dir(m)):
        if (
            isinstance(cls, type)
            and issubclass(cls, msgspec.Struct)
            and cls.__module__ == m.__name__
            and cls.__name__[0] != "_"
        ):
            schema = schema_of(cls)
            assert [field.name for field in schema.fields] == [field.name for field in fields(cls)], cls
            assert len(schema.by_number) == len(schema.fields), cls


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b"\x80" * 11)
@example(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
@example(b"\x02\x0b\x0c")
def test_any_bytes_are_commands_or_refused(frame: bytes) -> None:
    for decode in (PROTOBUF.decode, JSON.decode):
        try:
            found = decode(frame)
        except MalformedFrame:
            continue
        assert all(isinstance(command, Command) for command in found)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_commands_or_refused(frame: str) -> None:
    try:
        JSON.decode(frame)
    except MalformedFrame:
        pass


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b"", Malformed.EMPTY_FRAME),
        (b"\x01", Malformed.TRUNCATED),
        (b"\x80", Malformed.TRUNCATED),
        (b"\xff" * 10, Malformed.BAD_VARINT),
        (b"\x0c\x22\x0b\x0a" + b"\x08" + b"a" * 8, Malformed.TRUNCATED),
        (b"\x01\x00", Malformed.BAD_TAG),
        (b"\x02\x00\x00", Malformed.BAD_TAG),
        (b"\x02\x0b\x0c", Malformed.BAD_TAG),
        (b"\x02\x0e\x00", Malformed.BAD_TAG),
        (b"\x05\x22\x03\x0a\x01\xff", Malformed.NOT_TEXT),
        (b"\x03\x09\x00\x00", Malformed.TRUNCATED),
    ],
)
def test_broken_protobuf(frame: bytes, kind: Malformed) -> None:
    with pytest.raises(MalformedFrame) as caught:
        PROTOBUF.decode(frame)
    assert caught.value.kind is kind


def test_protobuf_that_is_nested_too_deep() -> None:
    node = b""
    for _ in range(80):
        node = b"\x32" + varint(len(node)) + node  # FilterNode.nodes
    request = b"\x0a\x01a" + b"\x6a" + varint(len(node)) + node
    command = b"\x08\x02\x2a" + varint(len(request)) + request
    with pytest.raises(MalformedFrame) as caught:
        PROTOBUF.decode(varint(len(command)) + command)
    assert caught.value.kind is Malformed.TOO_DEEP


def test_fields_that_are_not_known_are_left_out() -> None:
    unknown = b"\xa0\x06\x01" + b"\xa2\x06\x02hi" + b"\xa1\x06" + b"\0" * 8 + b"\xa5\x06" + b"\0" * 4
    assert decode_message(Command, b"\x08\x05" + unknown) == Command(id=5)
    assert decode_message(Command, b"\x0a\x01x\x08\x07") == Command(id=7)  # an id that is a text is no id
    assert JSON.decode('{"id":5,"other":{},"rpc":{"more":1}}') == [Command(id=5, rpc=m.RpcRequest())]


def test_one_line_feed_at_the_end_is_no_blank_line() -> None:
    assert JSON.decode("{}\n") == [Command()]
    assert JSON.decode('{"id":1,"connect":{}}\n{"id":2,"rpc":{}}') == [
        Command(id=1, connect=m.ConnectRequest()),
        Command(id=2, rpc=m.RpcRequest()),
    ]
    for frame, kind in (
        ("", "EMPTY_FRAME"),
        ("\n", "EMPTY_FRAME"),
        ("{}\n\n", "BLANK_LINE"),
        ("{}\n \n{}", "BLANK_LINE"),
    ):
        with pytest.raises(MalformedFrame) as caught:
            JSON.decode(frame)
        assert caught.value.kind is Malformed[kind], frame


def test_what_must_be_written_is_and_the_rest_is_not() -> None:
    def text(reply: Reply) -> bytes:
        return JSON.encode_reply(reply).data

    assert text(Reply(5, publish=m.PublishResult())) == b'{"id":5,"publish":{}}'
    assert text(Reply(5, subscribe=m.SubscribeResult())) == b'{"id":5,"subscribe":{}}'
    assert text(Reply(5, presence=m.PresenceResult({}))) == b'{"id":5,"presence":{"presence":{}}}'
    assert (
        text(Reply(5, history=m.HistoryResult([], "", 0)))
        == b'{"id":5,"history":{"publications":[],"epoch":"","offset":0}}'
    )
    assert text(Reply(5, presence_stats=m.PresenceStatsResult(0, 0))) == (
        b'{"id":5,"presence_stats":{"num_clients":0,"num_users":0}}'
    )
    assert text(Reply(5, error=m.Error(107, "bad request"))) == b'{"id":5,"error":{"code":107,"message":"bad request"}}'
    left = Push("a", leave=m.Leave(m.ClientInfo("", "c")))
    assert JSON.encode_push(left).data == b'{"push":{"channel":"a","leave":{"info":{"user":"","client":"c"}}}}'
    assert JSON.ping.data == b"{}"
    assert PROTOBUF.ping.data == b"\x00" == encode_delimited(Reply())


def publication(
    data: bytes = b'{"a":1}', format_: Format = Format.JSON, meta: bytes = b"", channel: str = "a"
) -> Publication:
    return Publication(channel, 7, 6, "e", 0.0, data, format_, meta)


META = b'{"info":{"user":"ann","client":"c","conn_info":{"x":1}},"tags":{"t":"1"},"version":3,"version_epoch":"v"}'


@pytest.mark.parametrize("meta", [b"", META, b'{"tags":{"t":"1"}}'])
@pytest.mark.parametrize("one_way", [False, True])
def test_the_quick_way_to_push_says_what_the_slow_one_does(meta: bytes, one_way: bool) -> None:
    for protocol in (CentrifugeJson(one_way=one_way), CentrifugeProtobuf(one_way=one_way)):
        for pub in (publication(meta=meta), publication(b'"\\u00e9"', meta=meta), publication(b"1\n", meta=meta)):
            told = protocol.publication_of(pub, protocol.data_of(pub), offset=True)
            expected = protocol.encode_push(Push(pub.channel, pub=told))
            pushed = protocol.encode_publication(pub)
            if isinstance(protocol, CentrifugeJson):
                assert msgspec.json.decode(pushed.data) == msgspec.json.decode(expected.data)
            else:
                cls = Push if one_way else Reply
                assert decode_frame(cls, pushed.data, depth=9) == decode_frame(cls, expected.data, depth=9)


@both
def test_publications_of_one_turn_are_pushed_as_each_alone_is(protocol: CentrifugeProtocol) -> None:
    metas = (META, META, b"", b'{"tags":{"t":"1"}}', META)
    found = [publication(b"%d" % number, meta=meta) for number, meta in enumerate(metas)]
    found += [publication(b"a\nb", Format.TEXT), publication(b"\xff", Format.BINARY), publication(b"[1,\r\n2]")]
    found += [EphemeralPublication("a", 0, 0, "", 0.0, b"1"), publication(META)]
    outside = [publication(channel="$user:ann"), publication(channel="$user:ann", data=b"2")]
    for of_one_channel in (found, outside, []):
        alone = [protocol.encode_pub(one, protocol.data_of(one), offset=True) for one in of_one_channel]
        assert protocol.encode_publications(of_one_channel) == alone


@both
def test_messages_outside_of_channels(protocol: CentrifugeProtocol) -> None:
    for channel in ("$user:ann", "$control"):
        pushed = protocol.encode_publication(publication(channel=channel))
        assert pushed == protocol.encode_push(Push(message=m.Message(raw(b'{"a":1}'))))
    private = protocol.encode_publication(publication(channel="$user-like"))
    assert private != protocol.encode_push(Push(message=m.Message(raw(b'{"a":1}'))))


@both
def test_a_refusal_answers_each_command_that_has_an_id(protocol: CentrifugeProtocol) -> None:
    sent = [Command(id=5, rpc=m.RpcRequest()), Command(send=m.SendRequest()), Command(id=6, rpc=m.RpcRequest())]
    if protocol is JSON:
        frame: str | bytes = "\n".join(msgspec.json.encode(command).decode() for command in sent)
    else:
        frame = b"".join(encode_delimited(command) for command in sent)
    error = m.Error(111, "too many requests", temporary=True)
    expected = protocol.encode_replies([Reply(5, error=error), Reply(6, error=error)])
    assert protocol.encode_refusal(RateLimited("slower"), frame) == expected
    for other in ("", "nonsense", b"\xff", "{}"):
        assert b"slower" in protocol.encode_refusal(RateLimited("slower"), other).data


@both
def test_what_the_core_tells_has_words_here_too(protocol: CentrifugeProtocol) -> None:
    assert b"dropped" in protocol.encode_dropped(Dropped("a", 3)).data
    assert protocol.encode_pong() is None
    reply = Subscribed("a", Position(7, "e"), (publication(),))
    told, pushed = protocol.encode_subscribed(reply)
    subscribed = m.Subscribe(recoverable=True, epoch="e", offset=7, positioned=True)
    assert told == protocol.encode_push(Push("a", subscribe=subscribed))
    assert pushed == protocol.encode_publication(publication())
    ended = protocol.encode_disconnect(3001, "shutdown")
    assert ended == protocol.encode_push(Push(disconnect=m.Disconnect(3001, "shutdown")))


def test_errors_have_their_numbers() -> None:
    assert codes.error_of(Refused(1234, "no", temporary=True)) == (1234, "no", True)
    assert codes.error_of(StoreUnavailable("away")) == codes.INTERNAL
    assert codes.error_of(BadRequest("x")) == codes.BAD_REQUEST
    assert codes.error_of(LimitExceeded("x")) == codes.LIMIT_EXCEEDED
    told = [value for value in vars(codes).values() if isinstance(value, codes.WireError)]
    assert [error.code for error in told] == list(range(100, 114))
    assert {error.code for error in told if error.temporary} == {100, 111, 113}


def test_ends_say_by_their_number_whether_the_client_may_come_back() -> None:
    for value in vars(codes).values():
        if isinstance(value, Disconnect):
            assert value.reconnect == (value.code < 3500), value
    assert 3504 not in {value.code for value in vars(codes).values() if isinstance(value, Disconnect)}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (r'"\ud83d"', r'"\ufffd"'),
        (r'"a\uDE00 b"', r'"a\ufffd b"'),
        (r'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\\ud83d \ud83d"', r'"\\ud83d \ufffd"'),
        (r'"\ud83d\n"', r'"\ufffd\n"'),
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
    ],
)
def test_half_a_character_is_no_reason_to_end(sent: str, kept: str) -> None:
    [command] = JSON.decode(f'{{"id":2,"rpc":{{"data":{sent}}}}}')
    assert command.rpc is not None
    assert bytes(command.rpc.data).decode() == kept
    for broken in (f'{{"id":2,"rpc":{{"data":{sent}', f'{{"data":{sent}x}}'):
        with pytest.raises(MalformedFrame):
            JSON.decode(broken)


@settings(deadline=None)
@given(
    st.integers(1, 2**32 - 1), st.text(max_size=200), st.binary(max_size=300), st.binary(max_size=3), st.integers(0, 3)
)
def test_the_quick_way_to_publish_means_what_the_slow_one_does(
    number: int, channel: str, data: bytes, more: bytes, cut: int
) -> None:
    whole = encode_delimited(Command(number, publish=m.PublishRequest(channel, raw(data))))
    frame = whole[: len(whole) - cut] + more
    quick = decode_publish(frame)
    if not cut and not more and channel and data:
        assert quick == (number, channel, data)
    if quick is not None:
        expected = [Command(quick[0], publish=m.PublishRequest(quick[1], raw(quick[2])))]
        assert decode_frame(Command, frame, depth=9) == expected
    done = Reply(number, publish=m.PublishResult())
    for protocol in (PROTOBUF, JSON):
        assert protocol.encode_published(number) == protocol.encode_reply(done)


@given(
    st.builds(
        PublicationMeta,
        st.none() | st.builds(m.ClientInfo, st.text(max_size=3), st.text(max_size=3)),
        st.dictionaries(st.sampled_from(["version", "but_not"]), st.text(max_size=3), max_size=2),
        st.integers(0, 2),
        st.sampled_from(["", "e"]),
        st.booleans(),
        st.sampled_from(["", "ann"]),
        st.sampled_from(["", "claim"]),
        st.sampled_from(["", "00-trace"]),
    ),
    st.sampled_from(['"text"', '{"n":1}', '["a\\nb"]', "1"]),
)
def test_a_client_is_shown_the_publisher_and_the_tags_and_nothing_of_the_server(
    meta: PublicationMeta, data: str
) -> None:
    publication = Publication("a", 2, 1, "e", 0.0, data.encode(), Format.JSON, meta.encode())
    shown = Reply(push=Push("a", pub=m.Publication(raw(data.encode()), meta.info, 2, meta.tags)))
    for protocol in (JSON, PROTOBUF):
        sent = protocol.encode_publication(publication)
        assert decode(protocol, sent) == msgspec.json.decode(msgspec.json.encode(shown))
        assert sent == protocol.encode_pub(publication, protocol.data_of(publication), offset=True)


def decode(protocol: CentrifugeProtocol, message: WireMessage) -> object:
    """Return the one reply of a frame as plain values."""
    if message.binary:
        return msgspec.json.decode(msgspec.json.encode(decode_frame(Reply, message.data, depth=9)[0]))
    return msgspec.json.decode(message.data)


@pytest.mark.parametrize(
    ("data", "format_"),
    [
        (b'{"n": 1}', Format.JSON),
        (rb'"\ud83d\ude00"', Format.JSON),
        (rb'"\ud83d"', Format.BINARY),
        (rb'{"a": ["\udc00"]}', Format.BINARY),
        (b"1" * 309, Format.JSON),
        (b"1" * 310, Format.BINARY),
        (b'{"n": -' + b"9" * 5_000 + b"}", Format.BINARY),
        (b"[" * 65 + b"]" * 65, Format.BINARY),
    ],
)
def test_protobuf_names_json_what_every_client_can_read(data: bytes, format_: Format) -> None:
    assert PROTOBUF.format_of(data) is format_
