"""Helpers of all commands: the terminal, the settings, and text that is safe to print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from tidewire.errors import ConfigurationError
from tidewire.server.logs import harmless

if TYPE_CHECKING:
    from tidewire.server.settings import Loaded

__all__ = ("complain", "count", "err", "load_settings", "out", "read_stdin", "say")

# Names of channels have colons, and are no emoji.
out: Console = Console(highlight=False, soft_wrap=True, emoji=False)
err: Console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """Print one line at once, with rich's markup."""
    out.print(text)
    sys.stdout.flush()


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_stdin(*, only_a_line: bool = False) -> str:
    """Read stdin as UTF-8 in every locale: all of it, or only its first line. Raises ConfigurationError."""
    data = sys.stdin.buffer.readline() if only_a_line else sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"stdin is not UTF-8 (at byte {error.start}); convert it, as with iconv") from None


def complain(message: str) -> int:
    """Print an error, further lines of it indented, and return the exit code of a user's mistake."""
    lines = (harmless(" ".join(line.split())) for line in message.splitlines() if line.strip())
    err.print("[bold red]error:[/] " + escape("\n  ".join(lines)))
    return 2


def load_settings(config: Path | None, flags: dict[str, Any], limits: Sequence[str] | None = None) -> Loaded:
    """Read the settings of a command; `limits` are `NAME=VALUE`. Raises ConfigurationError."""
    from tidewire.server.settings import load, unknown_variables

    table = {}
    for given in limits or ():
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigurationError(f"--limit {given!r} has no value; write it as --limit message_size=131072")
        table[name.strip()] = value.strip()
    for warning in unknown_variables():
        err.print(f"warning: {escape(warning)}")
    return load(config, flags | {"limits": table or None})
