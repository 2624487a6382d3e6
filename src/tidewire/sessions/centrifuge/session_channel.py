"""One channel of a session: its grant, when that ends, and the reply about it to the client."""

from __future__ import annotations

from collections.abc import Sequence

from tidewire.engine.subscribing import Prepared
from tidewire.messages import Position, Publication, Subscribed
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.messages import SubscribeRequest, raw
from tidewire.rules.base import Grant
from tidewire.sessions.centrifuge.credentials import end_of, ttl_of
from tidewire.sessions.centrifuge.polls import Tracker
from tidewire.sessions.centrifuge.representations import PubRepresentation

__all__ = ("ClientSubscription", "subscribe_result")


class ClientSubscription:
    """One channel of a session: its grant, and when that ends."""

    __slots__ = (
        "channel",
        "ends",
        "events",
        "expires_at",
        "grant",
        "is_positioned",
        "is_recoverable",
        "is_server_side",
        "tracker",
    )

    def __init__(self, channel: str, grant: Grant, request: SubscribeRequest, *, is_server_side: bool) -> None:
        options = grant.options
        has_history = options.history_size > 0 and options.history_seconds > 0
        asks = request.recoverable or request.recover or is_server_side
        self.channel = channel
        self.grant = grant
        self.is_server_side = is_server_side
        self.is_recoverable = has_history and (options.force_recoverable or (options.recoverable and asks))
        asks = request.positioned or is_server_side
        self.is_positioned = self.is_recoverable or (
            has_history and (options.force_positioned or (options.positioned and asks))
        )
        self.extend(grant.expires_at)
        #: The keys that the client tracks, where it has subscribed to polled values.
        self.tracker: Tracker | None = None
        #: Whether joins and leaves are pushed to this client; None: they are not announced at all.
        self.events: bool | None = None
        if options.join_leave or options.force_join_leave:
            self.events = grant.sees_joins and (options.force_join_leave or request.join_leave)

    def leave(self) -> None:
        """Track no key any more: the subscription has ended."""
        if self.tracker is not None:
            self.tracker.untrack(self.tracker.versions)

    def extend(self, expires_at: float | None) -> None:
        """Move the end of the subscription, in seconds since 1970; None: it never ends."""
        self.expires_at = expires_at
        #: The same by the loop's clock.
        self.ends = end_of(expires_at)


def subscribe_result(
    subscription: ClientSubscription, prepared: Prepared, since: Position | None, shown: PubRepresentation
) -> m.SubscribeResult:
    """Return the reply; after a recovery its position is the client's own, and missed publications come after it."""
    answer = prepared.answer
    position = answer.position
    state = prepared.state
    missed: Sequence[Publication] = answer.publications if answer.recovered else ()
    recovered = bool(answer.recovered)
    if state is None and since is not None and subscription.grant.options.latest:
        missed, recovered = _newest(answer, since)
    offset = since.offset if since is not None and recovered else position.offset
    return m.SubscribeResult(
        expires=subscription.expires_at is not None,
        ttl=ttl_of(subscription.expires_at),
        recoverable=subscription.is_recoverable,
        epoch=position.epoch if subscription.is_positioned else "",
        publications=_missed(prepared, missed, shown),
        recovered=recovered,
        offset=offset if subscription.is_positioned else 0,
        positioned=subscription.is_positioned,
        data=raw(subscription.grant.data if state is None else state.data),
        was_recovering=since is not None and state is None,  # with a state, it begins anew
        delta=shown.then is not None,
    )


def _missed(prepared: Prepared, missed: Sequence[Publication], shown: PubRepresentation) -> list[m.Publication]:
    """Return publications as a reply holds them, made once for all clients that are given the same."""
    if not missed:
        return []
    forms = prepared.forms
    if forms is None or missed is not prepared.answer.publications:
        return shown.missed(missed)
    made: list[m.Publication] | None = forms.get(shown)
    if made is None:
        made = forms[shown] = shown.missed(missed)
    return made


def _newest(answer: Subscribed, since: Position) -> tuple[Sequence[Publication], bool]:
    """Return the newest publication, unless the client has it, and whether it is there."""
    position, publications = answer.position, answer.publications
    if not publications:
        return (), False
    is_known = publications[-1].offset <= since.offset <= position.offset and since.epoch in ("", position.epoch)
    return (() if is_known else publications[-1:]), True
