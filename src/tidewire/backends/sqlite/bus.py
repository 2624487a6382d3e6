"""Passes ephemeral publications from process to process, in datagrams that the event loop reads, past the disk."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tidewire.backends.base import Deliver
from tidewire.backends.shared.relayed import pack_ephemeral, unpack_ephemeral
from tidewire.backends.sqlite.peers import Peers
from tidewire.messages import EphemeralPublication
from tidewire.support.counters import count_limit

__all__ = ("Bus",)

logger = logging.getLogger("tidewire")

#: Bytes of a datagram, about, and datagrams that are read before other work has its turn.
_DATAGRAM, _READ = 16_384, 64
#: Datagrams that wait for a process that does not read, and the seconds between two tries.
_WAITING, _RETRY = 256, 0.005


class Bus:
    """This process's own datagram socket, and those of the others."""

    def __init__(self, folder: Path, deliver: Deliver) -> None:
        self._peers = Peers(folder, suffix=".bus")
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        #: Datagrams that wait for others, which are so far behind that their sockets take no more.
        self._waiting: dict[str, deque[bytes]] = {}
        self._retrying: asyncio.TimerHandle | None = None
        if self._peers.fileno() >= 0:
            self._loop.add_reader(self._peers.fileno(), self._read)
        self._peers.wake()  # the sockets of killed processes go, which each look into the folder would list

    def send(self, publications: Sequence[EphemeralPublication]) -> None:
        """Send to every other process."""
        others = self._peers.others()
        if not others:
            return
        for datagram in pack_ephemeral(self._peers.name, publications, _DATAGRAM):
            for name in others:
                waiting = self._waiting.get(name)
                if waiting is not None:
                    self._wait(waiting, datagram)
                elif not self._peers.send(name, datagram):
                    self._waiting[name] = deque((datagram,))
        if self._waiting and self._retrying is None:
            self._retrying = self._loop.call_later(_RETRY, self._retry)

    @staticmethod
    def _wait(waiting: deque[bytes], datagram: bytes) -> None:
        waiting.append(datagram)
        if len(waiting) > _WAITING:
            count_limit("relay")
            waiting.popleft()

    def _retry(self) -> None:
        self._retrying = None
        others = self._peers.others()
        for name, waiting in tuple(self._waiting.items()):
            while waiting and name in others and self._peers.send(name, waiting[0]):
                waiting.popleft()
            if not waiting or name not in others:
                del self._waiting[name]
        if self._waiting:
            self._retrying = self._loop.call_later(_RETRY, self._retry)

    def _read(self) -> None:
        for _ in range(_READ):
            datagram = self._peers.receive()
            if datagram is None:
                return
            if not datagram:  # another process has begun
                continue
            publications = unpack_ephemeral(datagram, self._peers.name)
            if publications:
                try:
                    self._deliver(publications)
                except Exception:
                    logger.exception("a delivery of %d publications failed", len(publications))

    def close(self) -> None:
        """Read and send nothing more."""
        if self._retrying is not None:
            self._retrying.cancel()
        if self._peers.fileno() >= 0:
            self._loop.remove_reader(self._peers.fileno())
        self._peers.close()
