"""How the server is reached: its URL, which is never shown whole, and connections with the settings that we need."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tidewire.errors import ConfigurationError

__all__ = ("Server",)

#: Every statement of ours looks rows up by an index; plans made while the tables were small must do so too.
_SETTINGS = {
    "application_name": "tidewire",
    "default_transaction_isolation": "read committed",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
_OPENING_SECONDS = 5.0
_HOW = "write postgresql://user:password@host:5432/database, with characters such as @ : / in a password as %40 %3A %2F"


class Server:
    """A PostgreSQL server, or several of which one is the primary."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        #: Seconds within which it has to answer, and within which a connection has to be ready, its tables made.
        self.seconds = seconds
        self.opening_seconds = max(seconds, _OPENING_SECONDS)
        #: What people are told of it.
        self.shown = _shown(url)

    async def connect(self, *, asynchronous: bool = False) -> Any:
        """Return a new asyncpg connection; raises what asyncpg does, ConfigurationError for a URL that cannot work.

        `asynchronous`: its commits need not be on the disk, because they hold nothing that lasts.
        """
        # the server gives up before we do: a slow or blocked one answers with an error, and a silent one is away
        milliseconds = self.seconds * 1e3
        settings = {**_SETTINGS, "lock_timeout": f"{milliseconds * 0.75:.0f}"}
        settings["statement_timeout"] = f"{milliseconds * 0.85:.0f}"
        if asynchronous:
            settings["synchronous_commit"] = "off"
        is_one_of_many = "," in urlsplit(self._url).netloc and "target_session_attrs" not in self._url
        try:
            return await asyncpg.connect(
                self._url,
                timeout=self.opening_seconds,
                server_settings=settings,
                target_session_attrs="primary" if is_one_of_many else None,
            )
        except ValueError as error:  # its text may hold a part of the password
            raise ConfigurationError(f"the URL of {self.shown} cannot be used; {_HOW}") from error


def _shown(url: str) -> str:
    """Return the host and the database, or neither when a password was not written as it must be."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    try:
        ports = [urlsplit(f"//{host}").port for host in hosts.split(",")]
    except ValueError:
        ports = []
    if not ports or "@" in parts.path + parts.query + parts.fragment:
        return "PostgreSQL"
    return f"PostgreSQL at {hosts or 'this machine'}{parts.path}"
