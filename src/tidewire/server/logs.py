"""Logging of the server on stderr, as lines or as JSON, without tokens and without forged lines."""

from __future__ import annotations

import json
import logging
import logging.config
import re
import time
from typing import Any
from urllib.parse import unquote

from tidewire.support.log_ids import LogIds, log_ids_of
from tidewire.support.log_limit import LogLimit

__all__ = ("Clean", "configure", "harmless", "redacted", "without_secrets")

_TOKEN = re.compile(r"([?&](?:(?:access_)?token|ticket|api_key|cf_connect)=)[^&\s\"']+")
#: A JWT, wherever it stands: in a value of another name, or within JSON that a client did not encode.
#: Linear in the length of what a stranger sends: it gives nothing back, and begins nowhere within a word.
_JWT = re.compile(r"(?<![\w-])[\w-]{11,}+\.[\w-]++\.[\w-]*+")
#: The names in a query whose values may be a secret.
_SECRET = re.compile(r"pass|token|ticket|secret|key|cred|jwt|cf_connect", re.IGNORECASE)
#: The beginning of a traceback: servers put that of a failed start into the message itself, which keeps its lines.
_TRACEBACK = "Traceback (most recent call last):\n"
#: The lines of uvicorn that each request of a stranger may cause.
_BY_STRANGERS = ("Invalid HTTP request received.", "Unsupported upgrade request.")
_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def harmless(text: str) -> str:
    """Return a text in which all characters that control a terminal are escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def redacted(url: str) -> str:
    """Return a URL with its password, and every value of its query that may be a secret, replaced by `***`."""
    url = re.sub(r"^([a-z0-9+.-]+://[^/?#]*?):[^/?#]*@", r"\1:***@", url, flags=re.IGNORECASE)
    secret = r"([?&][^=&#]*(?:pass|token|secret|key|cred)[^=&#]*)=[^&#]*"
    return re.sub(secret, r"\1=***", url, flags=re.IGNORECASE)


def without_secrets(query: str) -> str:
    """Return the query of a request with every value replaced that may be a secret."""
    return "&".join(map(_without_secret, query.split("&")))


def _without_secret(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    # a name may be written in percent-encoding
    return f"{name}=***" if equals and _SECRET.search(unquote(name)) else _hidden(f"?{pair}")[1:]


def _hidden(text: str) -> str:
    """Return a text for a log without the tokens in it."""
    return _JWT.sub(_without_jwt, _TOKEN.sub(r"\1***", text))


def _without_jwt(found: re.Match[str]) -> str:
    before, begins, _ = found[0].partition("eyJ")
    return f"{before}***" if begins else found[0]


class Clean(logging.Filter):
    """Hides tokens in URLs, and escapes control characters so that a message cannot forge a line or a colour."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the message; keep every record."""
        text = _hidden(record.getMessage()).rstrip("\n")
        record.msg, record.args = _indented(text) if _TRACEBACK in text else harmless(text), None
        return True


def _indented(text: str) -> str:
    """Escape each line of a text, and indent all but the first, so that none looks like a record of its own."""
    return "\n  ".join(map(harmless, text.split("\n")))


class _Formatter(logging.Formatter):
    """Names the span, and indents and cleans the lines of a traceback, because they may quote a client."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record) + "".join(f" {name}={id}" for name, id in log_ids_of(record).items())

    def formatException(self, ei: Any) -> str:
        return "  " + _indented(_hidden(super().formatException(ei)))


class _Json(_Formatter):
    """One JSON object a line, in ASCII: no character of it moves a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(int(record.created * 1_000), 1_000)
        shown: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        shown |= log_ids_of(record)
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown)


class _WithoutQuery(logging.Filter):
    """Removes the query from uvicorn's access records (client, method, path, version, status)."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, version, status = record.args
            record.args = (client, method, str(path).partition("?")[0], version, status)
        return True


class _WithoutNothing(logging.Filter):
    """Drops uvicorn's error that it cancels no task at the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (str(record.msg).startswith("Cancel %s running task") and record.args == (0,))


class _Limited(logging.Filter):
    """Lets one of uvicorn's lines through in a minute that strangers cause as often as they like."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = LogLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop a line, or add how many were dropped before it."""
        if record.msg not in _BY_STRANGERS:
            return True
        more = self._limit.due(record.msg)
        record.msg += more or ""
        return more is not None


def configure(level: str, *, format: str = "text", access: bool = False) -> None:
    """Log everything of this process to stderr as "text" or "json", uvicorn's start and stop only when debugging."""
    name = level.upper()
    quiet = "DEBUG" if name == "DEBUG" else "WARNING"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {
                "clean": {"()": Clean},
                "ids": {"()": LogIds},
                "without_query": {"()": _WithoutQuery},
                "nothing": {"()": _WithoutNothing},
                "limited": {"()": _Limited},
            },
            "formatters": {"text": {"()": _Formatter, "fmt": _FORMAT}, "json": {"()": _Json}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": format, "filters": ["clean", "ids"]}
            },
            "root": {"level": name, "handlers": ["stderr"]},
            "loggers": {
                "asyncio": {"level": "WARNING"},
                "python_multipart": {"level": "ERROR"},  # a warning for each form of a stranger that is none
                "uvicorn": {"level": quiet},
                "uvicorn.error": {"level": quiet, "filters": ["nothing", "limited"]},
                "uvicorn.access": {"level": "INFO" if access else "CRITICAL", "filters": ["without_query"]},
            },
        }
    )
