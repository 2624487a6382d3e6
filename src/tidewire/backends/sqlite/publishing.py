"""Publishes: on the event loop they wait for an answer, and on the writer thread many of them make one commit."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from tidewire.backends.shared.waiting import WaitingRoom, not_published, unconfirmed
from tidewire.backends.sqlite.connection import Connection
from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.delivery import Delivery
from tidewire.backends.sqlite.file_errors import explain, is_certain
from tidewire.backends.sqlite.housekeeping import Housekeeping
from tidewire.backends.sqlite.mailbox import FileWrite, Mailbox
from tidewire.errors import NotPublished, PublishError, PublishUnconfirmed
from tidewire.messages import Position, Publication, PublishRequest

__all__ = ("Committer", "Publishing", "WriteAnswer")

logger = logging.getLogger("tidewire")

WriteAnswer = tuple[FileWrite, Position | PublishError]

#: The most that one commit takes.
_BATCH_COUNT = 1_000
_BATCH_BYTES = 4 * 1_048_576


class Publishing:
    """The publishes of this process that have no answer yet; on the event loop. `trouble` tells why writing fails."""

    def __init__(self, path: Path, seconds: float, mailbox: Mailbox, trouble: Callable[[], str]) -> None:
        self._path = path
        self._seconds = seconds
        self._mailbox = mailbox
        self._trouble = trouble
        self._room = WaitingRoom[FileWrite]("the disk", hand_over=mailbox.put, late=self._late)
        #: Answers a publish.
        self.settle = self._room.settle

    def submit(self, request: PublishRequest, *, removes: bool = False) -> asyncio.Future[Position]:
        """Take a publish, or a removal: of the request's key, or without one of its channel's history.

        Raises NotPublished when too many wait.
        """
        return self._room.enter(FileWrite(request, self._seconds, removes=removes))

    @property
    def is_waiting(self) -> bool:
        """Some publishes have no answer yet."""
        return self._room.is_used

    def flush(self) -> None:
        """Hand over the publishes of this turn of the loop."""
        self._room.flush()

    def close(self) -> None:
        """Stop to look for late publishes."""
        self._room.close()

    def _late(self, write: FileWrite) -> PublishError:
        seconds = self._seconds
        if self._mailbox.withdraw(write):
            reason = self._trouble() or f"another process, or the disk, kept {self._path} busy; see if one hangs"
            return NotPublished(f"not published within {seconds:g} s: {reason}")
        return PublishUnconfirmed(
            f"not confirmed within {seconds:g} s: the disk that holds {self._path} is slow to answer; "
            "publish it again with the same key"
        )


class Committer:
    """Makes the commits, on the writer thread."""

    def __init__(
        self, path: Path, mailbox: Mailbox, connection: Connection, delivery: Delivery, housekeeping: Housekeeping
    ) -> None:
        self._path = path
        self._mailbox = mailbox
        self._connection = connection
        self._delivery = delivery
        self._housekeeping = housekeeping

    def commit(self, database: Database) -> tuple[Sequence[Publication], Sequence[WriteAnswer]]:
        """Make one commit, with the lock held.

        Returns the publications to deliver and the answers, which are for when the lock is free again.
        """
        writes: list[FileWrite] = []
        answers: list[WriteAnswer] = []
        is_committing = False
        try:
            database.begin(write=True)
            found = self._delivery.catch_up(database)
            if not self._delivery.is_behind:
                writes = self._mailbox.take(_BATCH_COUNT, _BATCH_BYTES)
                self._keep(database, writes, found, answers)
                self._housekeeping.trim_beside(database, len(writes))
            is_committing = True
            database.commit()
        except sqlite3.Error as error:
            self._housekeeping.mend(database, error)
            return (), self._failed(writes, error, is_certain=not is_committing or is_certain(error))
        except Exception as error:
            logger.exception("a commit to %s failed by a fault of the program", self._path)
            self._connection.lose(f"an internal error ({error}); see the log")
            return (), self._failed(writes, error, is_certain=not is_committing)
        self._connection.succeeded()
        self._housekeeping.committed(database, len(writes), sum([write.size for write in writes]))
        return found, answers

    def _keep(
        self, database: Database, writes: Sequence[FileWrite], found: list[Publication], answers: list[WriteAnswer]
    ) -> None:
        for removes, group in groupby(writes, key=attrgetter("removes")):
            run = list(group)
            if removes:
                for write in run:
                    if write.request.key:
                        database.forget_key(write.request)
                    else:
                        database.remove_history(write.request.channel)
                    answers.append((write, database.position(write.request.channel)))
                continue
            positions, new = database.keep([write.request for write in run], self._delivery.channels)
            self._housekeeping.kept(run)
            found.extend(new)
            answers.extend(zip(run, positions, strict=True))

    def _failed(self, writes: Sequence[FileWrite], error: BaseException, *, is_certain: bool) -> list[WriteAnswer]:
        reason = explain(error, self._path)
        return [(write, not_published(reason) if is_certain else unconfirmed(reason)) for write in writes]

    def refuse(self) -> list[WriteAnswer]:
        """Answer writes that cannot be committed while the database is lost."""
        writes = self._mailbox.take(_BATCH_COUNT, _BATCH_BYTES)
        return [(write, not_published(self._connection.trouble)) for write in writes]
