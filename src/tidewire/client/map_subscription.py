"""A map as its subscribers see it: its entries, and each change of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tidewire.client.client_subscription import Subscription, SubscriptionClient
from tidewire.client.values import ChannelPublication, encoded, publication_from
from tidewire.protocols.centrifuge.messages import PublishRequest, SubscribeRequest, SubscribeResult

__all__ = ("MapSubscription",)

#: The type of a subscription to a map; the phases in which a client asks for missed changes, and for all entries.
_MAP, _MISSED, _ENTRIES = 1, 1, 2


class MapSubscription(Subscription):
    """A subscription to a map: `async for change in client.map("board:1")`, each with `key`, `data` and `removed`.

    `entries` are those at the last change that was taken; the first changes are the entries that exist already. After a
    lost connection come the changes that were missed; if these are not kept any more, those by which the entries
    differ.
    """

    def __init__(
        self,
        client: SubscriptionClient,
        channel: str,
        *,
        token: str,
        get_token: Callable[[str], Awaitable[str]] | None,
        data: Any,
        publish: Callable[[PublishRequest], Awaitable[None]],
    ) -> None:
        super().__init__(client, channel, since=None, token=token, get_token=get_token, data=data)
        #: Values by their keys.
        self.entries: dict[str, Any] = {}
        self._publish = publish
        #: The same, as they will be when the application has taken all that waits for it.
        self._known: dict[str, Any] = {}
        self._pages: dict[str, ChannelPublication] = {}

    async def set(self, key: str, value: Any) -> None:
        """Set an entry to a value that JSON can express; raises as `Client.publish`."""
        data = encoded(value)
        await self._publish(PublishRequest(self.channel, data, _MAP, key))

    async def remove(self, key: str) -> None:
        """Remove an entry; raises as `Client.publish`."""
        await self._publish(PublishRequest(self.channel, type=_MAP, key=key, removed=True))

    async def __anext__(self) -> ChannelPublication:
        change = await super().__anext__()
        if change.removed:
            self.entries.pop(change.key, None)
        else:
            self.entries[change.key] = change.data
        return change

    # Called by the client.

    @property
    def begins_anew(self) -> bool:
        return True

    def request(self) -> SubscribeRequest:
        self._pages = {}
        request = super().request()
        phase = _MISSED if request.recover else _ENTRIES
        return msgspec.structs.replace(request, type=_MAP, phase=phase, flag=0)

    def next_page(self, answer: SubscribeResult) -> SubscribeRequest | None:
        for entry in answer.state:
            self._pages[entry.key] = publication_from(self.channel, entry, answer.epoch)
        if answer.phase != _ENTRIES:
            return None
        return SubscribeRequest(self.channel, self.token, type=_MAP, phase=_ENTRIES, cursor=answer.cursor)

    def subscribed(self, answer: SubscribeResult) -> None:
        if not answer.recovered:
            for key in self._known.keys() - self._pages.keys():
                self._show(ChannelPublication(self.channel, None, key=key, removed=True))
            for key, entry in self._pages.items():
                if key not in self._known or self._known[key] != entry.data:
                    self._show(entry)
        self._pages = {}
        super().subscribed(answer)

    def _show(self, item: Any) -> None:
        if isinstance(item, ChannelPublication):
            if item.removed:
                self._known.pop(item.key, None)
            else:
                self._known[item.key] = item.data
        super()._show(item)
