from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from tidewire.server.logs import Clean, harmless


def cleaned(message: str, *args: object) -> str:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, args, None)
    assert Clean().filter(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        ("GET /ws?token=abc.def&x=1", "GET /ws?token=***&x=1"),
        ("GET /ws?x=1&access_token=abc", "GET /ws?x=1&access_token=***"),
        ("100 % sure", "100 % sure"),
        ("room a\nINFO forged", "room a\\nINFO forged"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("grüße 🌊", "grüße 🌊"),
    ],
)
def test_messages_are_cleaned(given: str, logged: str) -> None:
    assert cleaned(given) == logged


def test_arguments_are_part_of_what_is_cleaned() -> None:
    assert cleaned("%s says %d", "a\nb", 7) == "a\\nb says 7"


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\rb", "\u202ereversed", "\x9b31m", "\u2028"])
def test_what_moves_a_terminal_is_escaped(text: str) -> None:
    assert harmless(text).isprintable()
    assert "\\" in harmless(text)


def test_a_traceback_shows_no_token_and_forges_no_line() -> None:
    code = r"""
import logging
from tidewire.server import logs
logs.configure("info")
try:
    int("0?token=abc.def&x\x1b[31m")
except ValueError as error:
    try:
        raise ValueError(f"{error}\n2026-01-01 INFO forged") from error
    except ValueError:
        logging.getLogger("tidewire").exception("failed")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    first, *others = ended.stderr.splitlines()
    assert first.endswith("tidewire: failed")
    assert "  2026-01-01 INFO forged" in others
    assert all(line.startswith("  ") and line.isprintable() for line in others if line)
    assert "abc.def" not in ended.stderr
