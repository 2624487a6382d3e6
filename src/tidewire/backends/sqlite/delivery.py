"""Delivers publications of other processes to this one: reads everything past a cursor, in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence

from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.mailbox import DeliveryOrder
from tidewire.errors import StoreUnavailable, TidewireError
from tidewire.messages import Position, Publication

__all__ = ("Delivery", "OrderAnswer")

OrderAnswer = tuple[DeliveryOrder, Position | TidewireError]


class Delivery:
    """The subscribed channels, and whether everything is read. The writer thread alone uses it."""

    def __init__(self) -> None:
        self.channels: set[str] = set()
        #: More is known to be new than was read.
        self.is_behind = False

    def catch_up(self, database: Database) -> list[Publication]:
        """Read the publications past the cursor, or some of them, inside a transaction."""
        found, is_all = database.catch_up(self.channels)
        self.is_behind = not is_all
        return found

    def look(self, database: Database, orders: Sequence[DeliveryOrder]) -> tuple[list[Publication], list[OrderAnswer]]:
        """Read new publications and apply orders, in one moment of the database."""
        answers: list[OrderAnswer] = []
        database.begin(write=False)
        found = self.catch_up(database)
        for order in orders:
            if order.future is None:
                self.channels.discard(order.channel)
            else:
                answers.append((order, database.position(order.channel)))
                self.channels.add(order.channel)
        database.commit()
        return found, answers

    def refuse(self, orders: Sequence[DeliveryOrder], reason: str) -> list[OrderAnswer]:
        """Answer orders that cannot be applied while the database is lost."""
        answers: list[OrderAnswer] = []
        for order in orders:
            if order.future is None:
                self.channels.discard(order.channel)
            else:
                answers.append((order, StoreUnavailable(reason)))
        return answers
