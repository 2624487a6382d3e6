"""A network namespace with two cables to this machine: clients come over one, the store is reached over the other."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

from requirements import require

__all__ = ("Namespace", "namespace")

_numbers = itertools.count(1)


class Namespace:
    """A machine of its own, as far as the network is concerned."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        #: What stands before a command that runs there.
        self.prefix = ("ip", "netns", "exec", name)
        self._links = [f"{name}{letter}" for letter in "cs"]
        block = [f"10.{200 + number // 64 % 50}.{number % 64 * 4 + kind}" for kind in (0, 1)]
        #: Where the namespace is reached by clients, and where it reaches the store.
        self.host, self.store = f"{block[0]}.2", f"{block[1]}.1"
        self._blocks = block

    def make(self) -> bool:
        """Make it; False where that is not permitted."""
        if not _ip("netns", "add", self.name):
            return False
        _ip("-n", self.name, "link", "set", "lo", "up")
        return all(
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth", "netns", self.name)
            and _ip("-n", self.name, "link", "set", "eth", "name", f"in{link}")
            and _ip("addr", "add", f"{block}.1/24", "dev", link)
            and _ip("-n", self.name, "addr", "add", f"{block}.2/24", "dev", f"in{link}")
            and _ip("link", "set", link, "up")
            and _ip("-n", self.name, "link", "set", f"in{link}", "up")
            for link, block in zip(self._links, self._blocks, strict=True)
        )

    def cut(self) -> None:
        """Pull the cable to the store."""
        assert _ip("link", "set", self._links[1], "down")

    def heal(self) -> None:
        """Plug it in again."""
        assert _ip("link", "set", self._links[1], "up")

    def remove(self) -> None:
        """Remove it, with its cables."""
        for link in self._links:
            _ip("link", "del", link)
        _ip("netns", "del", self.name)


def _ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False, timeout=20).returncode == 0


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace for as long as the block lasts; skip the test where that is not permitted."""
    require(shutil.which("ip"), "apt-get install iproute2")
    number = os.getpid() * 4 + next(_numbers)
    made = Namespace(f"tw{number}", number)
    try:
        require(made.make(), "the right to make network namespaces (run as root)")
        yield made
    finally:
        made.remove()
