"""The traffic to and from the server: subjects, our headers, and the answers of the JetStream API.

Only the fields that are used here are read (NATS JetStream wire API reference).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

from tidewire.messages import Format, Publication, PublishRequest
from tidewire.retention import Retention

__all__ = (
    "Ack",
    "ApiError",
    "ConsumerInfo",
    "Stamp",
    "StoredMessage",
    "StreamAnswer",
    "fingerprint",
    "name_of",
    "parse_time",
    "token_of",
)

#: Header of a publication: format, time, retention.
STAMP = "Tidewire"
META = "Tidewire-Meta"
#: Header of a marker that stands where a history was removed: the top at that moment.
REMOVED = "Tidewire-Removed"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
SEQUENCE = "Nats-Sequence"
LAST_SEQUENCE = "Nats-Last-Sequence"
STATUS = "Status"

Headers = Mapping[str, str]
_FRACTION = re.compile(r"\.(\d+)")


#: How to mend a refusal, by its code.
_MENDS = {
    10054: "the stream has a max_msg_size of its own: remove it (`nats stream edit --max-msg-size=-1`)",
    10077: "the stream or the account is full: raise its limits, or remove those that the stream has of its own",
    10109: "a seal cannot be broken: remove the stream, and it is made again, or name another one (?stream=NAME)",
}


class ApiError(msgspec.Struct, frozen=True):
    """Why the server refused."""

    code: int = 0
    err_code: int = 0
    description: str = "no reason given"

    @property
    def reason(self) -> str:
        """Why, and how to mend it where an operator has to."""
        mend = _MENDS.get(self.err_code)
        return f"{self.description}; {mend}" if mend else self.description


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The answer to a publish."""

    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class StreamState(msgspec.Struct, frozen=True):
    """How much a stream holds."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] = {}

    @property
    def missing(self) -> int:
        """How many messages were stored and are gone."""
        return self.last_seq - self.messages


class StreamConfig(msgspec.Struct, frozen=True):
    """How a stream is configured, as far as it matters here."""

    subjects: list[str] = []
    max_msgs: int = -1
    max_bytes: int = -1
    max_age: int = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    sealed: bool = False
    no_ack: bool = False
    #: Nanoseconds.
    duplicate_window: int = 0
    storage: str = "file"
    num_replicas: int = 1


class StreamAnswer(msgspec.Struct, frozen=True):
    """The answer to a question about a stream."""

    config: StreamConfig = StreamConfig()
    state: StreamState = StreamState()
    created: str = ""
    total: int = 0
    purged: int = 0
    error: ApiError | None = None


class StoredMessage(msgspec.Struct, frozen=True):
    """One message as the stream holds it."""

    subject: str
    seq: int
    time: str
    hdrs: bytes = b""
    data: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        """The message's headers."""
        lines = self.hdrs.decode(errors="replace").split("\r\n")[1:]
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


class GetAnswer(msgspec.Struct, frozen=True):
    """The answer to a question for one message."""

    message: StoredMessage | None = None
    error: ApiError | None = None


class ConsumerInfo(msgspec.Struct, frozen=True):
    """The answer to the creation of a consumer; `created` is the server's time."""

    name: str = ""
    created: str = ""
    num_pending: int = 0
    error: ApiError | None = None


class Stamp(msgspec.Struct, frozen=True):
    """The facts that a publisher gives about a publication, beside its bytes."""

    time: float
    format: Format = Format.JSON
    retention: Retention | None = None
    meta: bytes = b""

    @classmethod
    def headers_of(cls, request: PublishRequest, time: float) -> dict[str, str]:
        """Return the headers of a publication that is published at this time of the store."""
        kept = request.retention
        words = f"{int(request.format)} {time!r}" + ("" if kept is None else f" {kept.size} {kept.age!r}")
        headers = {STAMP: words}
        if request.meta:
            headers[META] = base64.b64encode(request.meta).decode()
        return headers

    @classmethod
    def read(cls, headers: Headers, stored: float) -> Stamp:
        """Read the headers; a message that another program published is JSON of the time at which it was stored."""
        try:
            words = headers[STAMP].split()
            kept = Retention(int(words[2]), float(words[3])) if len(words) == 4 else None
            return cls(float(words[1]), Format(int(words[0])), kept, base64.b64decode(headers.get(META, "")))
        except (KeyError, ValueError, IndexError):
            return cls(stored)

    def publication(self, channel: str, offset: int, previous: int, epoch: str, data: bytes) -> Publication:
        """Return the publication."""
        return Publication(channel, offset, previous, epoch, self.time, data, self.format, self.meta)


def token_of(name: str) -> str:
    """Return a name as one token of a subject; raises UnicodeEncodeError for a name that is not valid Unicode."""
    return "_" + base64.urlsafe_b64encode(name.encode()).rstrip(b"=").decode()


def name_of(token: str) -> str:
    """Return the name that a token stands for."""
    text = token[1:]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


def fingerprint(*parts: str) -> str:
    """Return some words as one that a header can hold."""
    digest = hashlib.blake2b(digest_size=18)
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d:" % len(encoded) + encoded)
    return base64.urlsafe_b64encode(digest.digest()).decode()


def parse_time(text: str) -> float:
    """Return a server's time (RFC 3339, nanoseconds) in seconds since 1970."""
    cut = _FRACTION.sub(lambda match: "." + match[1][:6].ljust(6, "0"), text)
    return datetime.fromisoformat(cut).timestamp()
