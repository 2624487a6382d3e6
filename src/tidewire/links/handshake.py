"""The opening handshake: the judgement of a request, its ASGI scope, and the answers to it; no I/O."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from base64 import b64encode
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from hashlib import sha1
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter

from tidewire.errors import ConfigurationError
from tidewire.links.host import BadHost, is_host, origin_form, set_host

__all__ = ("WIRE_LOGGER", "DeflateFactory", "Handshake", "HeaderPairs", "plain_response", "read_handshake", "response")

#: The core of `websockets` logs every opened and closed connection at INFO, so it has a logger of its own.
WIRE_LOGGER = logging.getLogger("tidewire.wire")
# At DEBUG it logs every header, tokens too: only a configuration that names this logger gets that.
WIRE_LOGGER.setLevel(logging.INFO)
#: Batches are compressed once for all, with this window (see `batch.frame`).
_WINDOW_BITS = 12
#: The text that is hashed behind a client's key (RFC 6455 section 1.3), and a key: 16 bytes in base 64.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
_CONNECTION = frozenset({b"upgrade", b"keep-alive, upgrade"})
#: Headers that the core has to judge.
_UNUSUAL = frozenset({b"transfer-encoding", b"content-length"})

#: Headers of a request that has a body, or expects an answer before it.
_BODY = frozenset({b"transfer-encoding", b"content-length", b"expect"})
#: A plain request, and one of its headers (RFC 9112). No part of them can match in two ways, however long it is.
_NAME, _VALUE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", rb"[^\x00-\x08\x0a-\x1f\x7f]*"
_REQUEST = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:%b:%b\r\n)+)\r\n" % (_NAME, _VALUE))
_HEADER = re.compile(rb"(%b):(%b)\r\n" % (_NAME, _VALUE))
#: The subprotocols that a client offers, as nearly all do: tokens between commas.
_OFFER = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (_NAME, _NAME))

HeaderPairs = Iterable[tuple[bytes, bytes]]


class DeflateFactory(ServerPerMessageDeflateFactory):
    """Negotiates permessage-deflate (RFC 7692) without context takeover, with a window that every batch fits."""

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=_WINDOW_BITS,
            client_max_window_bits=_WINDOW_BITS,
            compress_settings={"level": 1, "memLevel": 5},
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Answer one offer; raises NegotiationError (the offer is declined) for a window that is too small."""
        answer = super().process_request_params(params, accepted_extensions)
        if answer[1].local_max_window_bits < _WINDOW_BITS:
            raise NegotiationError(f"server_max_window_bits below {_WINDOW_BITS} is not on offer")
        return answer


def _new_core(*, deflate: bool) -> ServerProtocol:
    return ServerProtocol(extensions=[DeflateFactory()] if deflate else None, logger=WIRE_LOGGER)


class _Judges(threading.local):
    """The cores that judge complete requests, in one call: one core serves all connections of a thread."""

    def __init__(self) -> None:
        self.plain = _new_core(deflate=False)
        self.with_deflate = _new_core(deflate=True)


_judges = _Judges()


class Handshake:
    """One opening handshake: `feed` or `take` reads the request, `accept` or a function below makes the answer."""

    __slots__ = ("_answer", "_core", "_deflate", "_extensions", "_fields", "_offered", "early", "path")

    def __init__(self, *, deflate: bool) -> None:
        self._deflate = deflate
        #: Parses the request, if no HTTP class has parsed it.
        self._core: ServerProtocol | None = None
        #: The lines of the accepting answer, and the extensions that it agrees to.
        self._answer: list[bytes] = []
        self._extensions: Sequence[Extension] = ()
        #: The headers of the request, and the subprotocols that it offers.
        self._fields: list[tuple[bytes, bytes]] = []
        self._offered: list[str] = []
        #: The path of the request, with its query; None until the request is complete and good.
        self.path: str | None = None
        #: Bytes that the client sent behind its request before it had an answer.
        self.early = b""

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes of the request; return the refusal to be sent, or None."""
        core = self._core
        if core is None:
            core = self._core = _new_core(deflate=self._deflate)
        core.receive_data(data)
        for event in core.events_received():
            if isinstance(event, Request):
                refusal = self._judge(event)
                return None if refusal is None else refusal.serialize()
        if core.handshake_exc is None:
            return None
        # The core has an answer to headers that are too large, but none to bytes that are no request at all.
        answer = b"".join(core.data_to_send())
        return answer or plain_response(400, "this is not a WebSocket handshake (RFC 6455 section 4.1)").serialize()

    def take(self, method: str, path: bytes, headers: HeaderPairs) -> bytes | None:
        """Judge a request that an HTTP class has parsed (HTTP/1.1 only); returns as `feed` does."""
        headers = list(headers)
        if method == "GET" and self._take_plain(path, headers):
            return None
        try:
            fields = Headers([(name.decode("ascii"), value.decode("latin-1")) for name, value in headers])
            request = Request(path.decode("ascii"), fields, method)
        except UnicodeDecodeError:
            return plain_response(400, "the path and the names of headers are ASCII (RFC 9110)").serialize()
        if "Transfer-Encoding" in fields or not set(fields.get_all("Content-Length")) <= {"0"}:
            return plain_response(400, "a WebSocket handshake has no body").serialize()
        refusal = self._judge(request)
        return None if refusal is None else refusal.serialize()

    def _take_plain(self, path: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """Accept the handshake that nearly every client sends; return False for others, which the core judges."""
        known = dict(headers)
        key = known.get(b"sec-websocket-key", b"")
        offer = known.get(b"sec-websocket-protocol")
        if (
            len(known) != len(headers)
            or not known.keys().isdisjoint(_UNUSUAL)
            or (self._deflate and b"sec-websocket-extensions" in known)
            or b"host" not in known
            or known.get(b"upgrade", b"").lower() != b"websocket"
            or known.get(b"connection", b"").lower() not in _CONNECTION
            or known.get(b"sec-websocket-version") != b"13"
            or _KEY.fullmatch(key) is None
            or (offer is not None and _OFFER.fullmatch(offer) is None)
            or not path.startswith(b"/")
            or not path.isascii()
        ):
            return False
        self.path, self._fields = path.decode("ascii"), headers
        if offer is not None:
            self._offered = [name.strip() for name in offer.decode("ascii").split(",")]
        accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
        self._answer = [b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + accept]
        return True

    def _judge(self, request: Request) -> Response | None:
        headers = request.headers
        try:
            hosts = [(b"host", value.encode("latin-1")) for value in headers.get_all("Host")]
            set_host(request.path.encode(), hosts, "1.1")
        except BadHost as error:
            return plain_response(400, str(error))
        offered = [value for value in headers.get_all("Sec-WebSocket-Protocol") if value.strip(" \t,")]
        if "Sec-WebSocket-Protocol" in headers:
            del headers["Sec-WebSocket-Protocol"]
            for value in offered:
                headers["Sec-WebSocket-Protocol"] = value
        core = _judges.with_deflate if self._deflate else _judges.plain
        answer = core.accept(request)
        if answer.status_code != 101:
            if core.handshake_exc is not None:
                core.handshake_exc.__traceback__ = None  # its frames hold the request, and that holds the error
            return answer
        self.path = origin_form(request.path.encode()).decode()
        self._extensions = core.extensions
        self._fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.raw_items()]
        self._offered = [name for part in ",".join(offered).split(",") if (name := part.strip())]
        lines = [(name, value) for name, value in answer.headers.raw_items() if name != "Date"]
        self._answer = [f"{name}: {value}".encode("latin-1") for name, value in lines]
        return None

    def scope(self, transport: asyncio.Transport, asgi_version: str, root_path: str) -> dict[str, Any]:
        """Return the ASGI connection scope of the request (ASGI WebSocket specification, version 2.4)."""
        assert self.path is not None
        raw_path, _, query = self.path.partition("?")
        return {
            "type": "websocket",
            "asgi": {"version": asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if transport.get_extra_info("sslcontext") else "ws",
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "root_path": root_path,
            "path": root_path + unquote(raw_path),
            "raw_path": (root_path + raw_path).encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": self._fields,
            "subprotocols": self._offered,
        }

    def accept(self, headers: HeaderPairs, subprotocol: str | None) -> tuple[bytes, Sequence[Extension]]:
        """Return the bytes of the accepting response, and the extensions that it agrees to."""
        lines = [*self._answer, *(name + b": " + value for name, value in headers)]
        if subprotocol:
            lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1"))
        head = b"\r\n".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
            raise ConfigurationError("a header of the handshake's answer contains a line break; take it out")
        return b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\n\r\n", self._extensions

    def end(self) -> None:
        """Close the core's parser: the two refer to each other and to the request."""
        if self._core is not None:
            self._core.parser.close()

    def describe(self) -> str:
        """Return the request's path for a log: without the query, which may hold a token."""
        assert self.path is not None
        return quote(unquote(self.path.partition("?")[0]))


def read_handshake(data: bytes, limit: int) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """Return path and headers of a handshake, and the bytes behind it, if these bytes begin with a whole one.

    None for anything else, for more bytes than the limit, and for an unusual handshake: an HTTP class judges those.
    """
    found = _REQUEST.match(data, 0, limit)
    if found is None:
        return None
    path, fields = found.groups()
    headers = [(name.lower(), value.strip(b" \t")) for name, value in _HEADER.findall(fields)]
    known = dict(headers)
    if (
        len(known) != len(headers)
        or known.get(b"upgrade", b"").lower() != b"websocket"
        or known.get(b"connection", b"").lower() not in _CONNECTION
        or not known.keys().isdisjoint(_BODY)
        or not is_host(known.get(b"host", b""))
    ):
        return None
    return path, headers, data[found.end() :]


def response(status: int, headers: HeaderPairs, body: bytes) -> Response:
    """Return an HTTP response that ends the connection."""
    answer = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
    answer.setdefault("Date", formatdate(usegmt=True))
    answer.setdefault("Connection", "close")
    answer.setdefault("Content-Length", str(len(body)))
    answer.setdefault("Content-Type", "text/plain; charset=utf-8")
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return Response(status, phrase, answer, body)


def plain_response(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    """Return a refusal with one line of text."""
    return response(status, headers, f"{text}\n".encode() if text else b"")


def _address(name: Any) -> tuple[str, int | None] | None:
    if isinstance(name, str):
        return name, None
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) and len(name) >= 2 else None
