"""Objects of which each node has one."""

from __future__ import annotations

from typing import Self

from tidewire.engine.node import Node

__all__ = ("PerNode",)


class PerNode:
    """A class with one instance for each node, made when it is first asked for; it lives as long as its node."""

    def __init__(self, node: Node) -> None:
        """Make the instance of a node."""

    @classmethod
    def of(cls, node: Node) -> Self:
        """Return the instance of a node."""
        found = cls.known(node)
        if found is None:
            found = node.companions[cls] = cls(node)
        return found

    @classmethod
    def known(cls, node: Node) -> Self | None:
        """Return the instance of a node, if it was made."""
        found: Self | None = node.companions.get(cls)
        return found
