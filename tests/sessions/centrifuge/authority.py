"""An authority for tests: tokens are plain words, and what a channel offers stands in its name."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import msgspec

from tidewire.channel_options import ChannelOptions, MapKind, MapOptions, SlowPolicy
from tidewire.errors import BadRequest, PermissionDenied, Refused, Rejected, TokenExpired, UnknownChannel, UnknownType
from tidewire.protocols.centrifuge.codes import INVALID_TOKEN
from tidewire.rules.base import Action, Authority, Caller, ConnectAttempt, Grant, Identity

OPTIONS = {
    "": ChannelOptions(history_size=0, recoverable=False),
    "history": ChannelOptions(),
    "recovery": ChannelOptions(presence=True, join_leave=True, force_recoverable=True, force_join_leave=True),
    "presence": ChannelOptions(presence=True, join_leave=True),
    "delta": ChannelOptions(delta=True),
    "tags": ChannelOptions(tags_filter=True),
    "cache": ChannelOptions(history_size=1, latest=True, force_recoverable=True),
    "small": ChannelOptions(history_size=3),
    "latest": ChannelOptions(slow=SlowPolicy.LATEST, delta=True),
    "newest": ChannelOptions(slow=SlowPolicy.LATEST, tags_filter=True),
    "dropped": ChannelOptions(slow=SlowPolicy.DROP, tags_filter=True),
    "gone": ChannelOptions(ephemeral=True),
    "map": ChannelOptions(map=MapOptions(), delta=True, clients_map="clients:", users_map="users:"),
    "tagmap": ChannelOptions(map=MapOptions(), tags_filter=True),
    "smallmap": ChannelOptions(map=MapOptions(), history_size=3),
    "anew": ChannelOptions(map=MapOptions(recoverable=False)),
    "owned": ChannelOptions(map=MapOptions(owned=True, client_key="client_id")),
    "gonemap": ChannelOptions(map=MapOptions(owned=True, client_key="client_id"), ephemeral=True, delta=True),
    "clients": ChannelOptions(map=MapOptions(kind=MapKind.CLIENTS)),
    "users": ChannelOptions(map=MapOptions(kind=MapKind.USERS)),
}


class WordAuthority(Authority):
    """Tokens are `user:ann ttl:60 subs:a,b info:{…}`, with `expired` and `bad` as what they say."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.has_listener = False
        #: What must be set before the call `wait` is answered.
        self.answers = asyncio.Event()

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        if attempt.token == "boom":
            raise ZeroDivisionError("a bug of the application")
        if attempt.token == "unavailable":
            raise PermissionDenied("not today")
        return self._identity(attempt.token) if attempt.token else identity or Identity(data=attempt.data)

    def _identity(self, token: str) -> Identity:
        words = self._words(token)
        subs = {channel: Grant(self.options(channel)) for channel in words.get("subs", "").split(",") if channel}
        return Identity(words.get("user", ""), words.get("info", "").encode(), b"", self._end(words), subs)

    @staticmethod
    def _words(token: str) -> dict[str, str]:
        if token == "expired":
            raise TokenExpired("it was good once")
        if token == "bad":
            raise Rejected(INVALID_TOKEN)
        words: dict[str, Any] = {}
        for word in token.split(" "):
            name, _, value = word.partition(":")
            words[name] = value
        return words

    @staticmethod
    def _end(words: dict[str, str]) -> float | None:
        if "ttl" not in words:
            return None
        if not re.fullmatch(r"-?\d{1,9}(\.\d+)?", words["ttl"], re.ASCII):
            raise Rejected(INVALID_TOKEN)
        return time.time() + float(words["ttl"])

    async def refresh(self, caller: Caller, token: str) -> Identity:
        return self._identity(token)

    def options(self, channel: str) -> ChannelOptions:
        namespace = channel.partition(":")[0] if ":" in channel else ""
        if namespace not in OPTIONS:
            raise UnknownChannel(f"no rule names {channel!r}")
        return OPTIONS[namespace]

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        if channel == "forbidden":
            raise PermissionDenied("nobody may")
        if channel == "boom":
            raise ZeroDivisionError("a bug of the application")
        if channel == "refused":
            raise Refused(1234, "the application says no")
        options = self.options(channel)
        words = self._words(token) if token else {}
        return Grant(options, words.get("info", "").encode(), data, self._end(words))

    async def sub_refresh(self, caller: Caller, channel: str, token: str) -> Grant:
        words = self._words(token)
        name = words.get("channel", channel)
        return Grant(self.options(name), expires_at=self._end(words), channel=name)

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        self.options(channel)
        if channel == "boom":
            raise ZeroDivisionError("a bug of the application")
        if channel == "quiet":
            raise PermissionDenied("nobody may")

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        if method == "echo":
            return data
        if method == "who":
            return msgspec.json.encode({"user": caller.identity.user, "client": caller.client})
        if method == "wait":
            await self.answers.wait()
            return data
        if method == "boom":
            raise ValueError("a bug of the application")
        if method == "bad":
            raise BadRequest("no")
        raise UnknownType(f"no call {method!r}")

    async def receive(self, caller: Caller, data: bytes) -> None:
        if data == b'"boom"':
            raise ZeroDivisionError("a bug of the application")
        if not self.has_listener:
            raise UnknownType("nobody listens")
        self.received.append(data)
