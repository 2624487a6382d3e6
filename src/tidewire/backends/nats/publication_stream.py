"""The stream that holds every publication, and its epoch.

The epoch stands in every subject, `prefix.s.<epoch>.<channel>`, and the stream takes the subjects of one epoch only:
a node that still uses another one is refused, and hears nothing. So two epochs are never mixed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets

from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.jetstream import (
    ConsumerInfo,
    GetAnswer,
    StoredMessage,
    StreamAnswer,
    StreamConfig,
    StreamState,
    parse_time,
    token_of,
)
from tidewire.backends.nats.session import Refused, Session, Unsendable
from tidewire.errors import ConfigurationError, StoreUnavailable

__all__ = ("WINDOW_SECONDS", "Stream", "is_limited", "open_stream", "start_epoch")

logger = logging.getLogger("tidewire")

#: Seconds for which the server remembers the keys of publications.
WINDOW_SECONDS = 300.0
#: The first version whose messages name the one before them in their subject.
_OLDEST = (2, 9, 0)
_NO_STREAM, _NO_MESSAGE, _IN_USE = 10059, 10037, 10058


class Stream:
    """The publications' stream on one session."""

    def __init__(self, session: Session, address: NatsAddress, epoch: str) -> None:
        self.session = session
        self.name = address.stream
        self.epoch = epoch
        self._prefix = address.stream

    # Subjects.

    def stored(self, channel: str) -> str:
        """Return the subject at which a channel's publications are stored."""
        return f"{self._prefix}.s.{self.epoch}.{token_of(channel)}"

    def live(self, channel: str) -> str:
        """Return the subject at which they are republished live."""
        return f"{self._prefix}.r.{self.epoch}.{token_of(channel)}"

    def mark(self, stored: str) -> str:
        """Return the subject of the mark that something was removed at a stored subject."""
        return f"{self._prefix}.f.{self.epoch}.{stored.rpartition('.')[2]}"

    @property
    def all_stored(self) -> str:
        """The subjects of all channels."""
        return f"{self._prefix}.s.{self.epoch}.*"

    @property
    def removals(self) -> str:
        """The subject of the notes of tidewire's own removals; no channel has this token."""
        return f"{self._prefix}.f.{self.epoch}.removed"

    @property
    def turn(self) -> str:
        """The subject that says which node trims next."""
        return f"{self._prefix}.t.{self.epoch}"

    # Asking.

    async def get(self, **asked: object) -> StoredMessage | None:
        """Return one message; raises StoreUnavailable."""
        answer = await self.session.api(f"STREAM.MSG.GET.{self.name}", asked, GetAnswer)
        if answer.error is not None:
            if answer.error.err_code == _NO_MESSAGE or answer.error.description.startswith("no message found"):
                return None
            raise Refused("read a message", answer.error)
        return answer.message

    async def last(self, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject."""
        return await self.get(last_by_subj=subject)

    async def info(self, subjects: str = "", offset: int = 0) -> StreamAnswer:
        """Return how the stream is; raises StoreUnavailable when it is gone."""
        asked = {"subjects_filter": subjects, "offset": offset} if subjects else None
        answer = await self.session.api(f"STREAM.INFO.{self.name}", asked, StreamAnswer)
        if answer.error is not None:
            raise Refused(f"tell of the stream {self.name}", answer.error)
        return answer

    async def state(self) -> StreamState:
        """Return how much the stream holds; raises StoreUnavailable when it has another epoch now."""
        answer = await self.info()
        if _epoch_of(answer.config, self._prefix) != self.epoch:
            raise StoreUnavailable(f"the stream {self.name} was made anew")
        return answer.state

    async def purge(self, subject: str, **asked: int) -> int:
        """Remove messages of a subject: all before a `seq`, or all but the newest `keep`; return how many went."""
        answer = await self.session.api(f"STREAM.PURGE.{self.name}", {"filter": subject, **asked}, StreamAnswer)
        if answer.error is not None:
            raise Refused("remove old messages", answer.error)
        return answer.purged

    async def read_from(self, subject: str, seq: int) -> ConsumerInfo:
        """Make a consumer that reads a subject from a sequence on."""
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, seq),
            "ack_policy": "none",
            "filter_subject": subject,
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000,
        }
        asked = {"stream_name": self.name, "config": config}
        answer = await self.session.api(f"CONSUMER.CREATE.{self.name}", asked, ConsumerInfo)
        if answer.error is not None:
            raise Refused("read", answer.error)
        return answer

    async def time(self) -> float:
        """Return the server's time, in seconds since 1970."""
        consumer = await self.read_from(self.turn, 1)
        await self.forget(consumer)
        return parse_time(consumer.created)

    async def forget(self, consumer: ConsumerInfo) -> None:
        """Remove a consumer; one that is not removed ends by itself."""
        with contextlib.suppress(Unsendable):
            await self.session.publish(f"$JS.API.CONSUMER.DELETE.{self.name}.{consumer.name}", b"")


async def open_stream(session: Session, address: NatsAddress) -> Stream:
    """Return the stream, made if it is not there; raises ConfigurationError for a server that cannot be used."""
    if session.version < _OLDEST:
        raise ConfigurationError(f"nats-server {'.'.join(map(str, session.version))} is too old; use 2.9 or newer")
    prefix = address.stream
    try:
        answer = await session.api(f"STREAM.INFO.{address.stream}", None, StreamAnswer)
    except Refused as error:
        raise ConfigurationError(f"JetStream is off on NATS at {address.shown}; start nats-server with -js") from error
    if answer.error is not None and answer.error.err_code == _NO_STREAM:
        asked = _config(address, secrets.token_hex(4) + "x1")
        answer = await session.api(f"STREAM.CREATE.{address.stream}", asked, StreamAnswer)
        if answer.error is not None and answer.error.err_code == _IN_USE:  # another node was faster
            answer = await session.api(f"STREAM.INFO.{address.stream}", None, StreamAnswer)
    if answer.error is not None:
        raise Refused(f"make the stream {address.stream}", answer.error)
    epoch = _epoch_of(answer.config, prefix)
    if not epoch:
        raise ConfigurationError(
            f"the stream {address.stream} on NATS at {address.shown} is not tidewire's; name another: ?stream=NAME"
        )
    return Stream(session, address, epoch)


async def start_epoch(session: Session, address: NatsAddress, old: str) -> Stream:
    """Give the stream the epoch after an old one, with its subjects, and return it; messages of the old one stay."""
    seed, _, number = old.partition("x")
    logger.error("the stream %s has lost messages that it had; a new epoch begins", address.stream)
    epoch = f"{seed}x{int(number) + 1}"
    answer = await session.api(f"STREAM.UPDATE.{address.stream}", _config(address, epoch), StreamAnswer)
    if answer.error is not None:
        raise Refused("begin a new epoch", answer.error)
    return Stream(session, address, epoch)


def _config(address: NatsAddress, epoch: str) -> dict[str, object]:
    prefix = address.stream
    return {
        "name": address.stream,
        "subjects": [f"{prefix}.s.{epoch}.*", f"{prefix}.f.{epoch}.*", f"{prefix}.t.{epoch}"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "num_replicas": address.replicas,
        "duplicate_window": int(WINDOW_SECONDS * 1e9),
        "republish": {"src": f"{prefix}.s.*.*", "dest": f"{prefix}.r.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"},
    }


def _epoch_of(config: StreamConfig, prefix: str) -> str:
    for subject in config.subjects:
        words = subject.split(".")
        if len(words) == 4 and words[:2] == [prefix, "s"]:
            return words[2]
    return ""


def is_limited(config: StreamConfig) -> bool:
    """Return whether the server removes messages by itself."""
    return max(config.max_msgs, config.max_bytes, config.max_msgs_per_subject, config.max_age) > 0
