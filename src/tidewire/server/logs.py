"""Logging of the server: one line for each record on stderr, without tokens and without forged lines."""

from __future__ import annotations

import logging
import logging.config
import re
from typing import Any

__all__ = ("Clean", "configure", "harmless")

_TOKEN = re.compile(r"([?&](?:(?:access_)?token|api_key|cf_connect)=)[^&\s\"']+")
_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def harmless(text: str) -> str:
    """Return a text with everything escaped that a terminal does not just print."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class Clean(logging.Filter):
    """Hides tokens in URLs, and escapes control characters so that a message cannot forge a line or a colour."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the message; keep every record."""
        record.msg, record.args = harmless(_TOKEN.sub(r"\1***", record.getMessage())), None
        return True


class _Formatter(logging.Formatter):
    """Indents the lines of a traceback, and cleans them as messages: an exception's text may be a client's."""

    def formatException(self, ei: Any) -> str:
        lines = _TOKEN.sub(r"\1***", super().formatException(ei)).split("\n")
        return "\n".join(f"  {harmless(line)}" for line in lines)


class _WithoutQuery(logging.Filter):
    """Removes the query from uvicorn's access records (client, method, path, version, status)."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, version, status = record.args
            record.args = (client, method, str(path).partition("?")[0], version, status)
        return True


def configure(level: str, *, access: bool = False) -> None:
    """Send everything of this process to stderr; uvicorn's own start and stop lines only when debugging."""
    name = level.upper()
    quiet = "DEBUG" if name == "DEBUG" else "WARNING"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"clean": {"()": Clean}, "without_query": {"()": _WithoutQuery}},
            "formatters": {"line": {"()": _Formatter, "fmt": _FORMAT}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["clean"]}},
            "root": {"level": name, "handlers": ["stderr"]},
            "loggers": {
                "asyncio": {"level": "WARNING"},
                "uvicorn": {"level": quiet},
                "uvicorn.error": {"level": quiet},
                "uvicorn.access": {"level": "INFO" if access else "CRITICAL", "filters": ["without_query"]},
            },
        }
    )
