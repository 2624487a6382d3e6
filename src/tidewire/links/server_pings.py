"""ASGI servers that wait for no pong: there, nothing tells a client that is frozen from one that is quiet.

ASGI has no event for a ping, so that `links/asgi.py` depends on its server: uvicorn, gunicorn with uvicorn's worker and
daphne ping by themselves.
"""

from __future__ import annotations

import logging
import sys

__all__ = ("warn_without_pings",)

logger = logging.getLogger("tidewire")

#: The modules of these servers.
_WITHOUT_PINGS = ("hypercorn", "granian")


def warn_without_pings() -> None:
    """Warn, when an application starts, that presence promises less under the server that runs it."""
    for server in _WITHOUT_PINGS:
        if server in sys.modules:
            logger.warning(
                "%s waits for no answer to a WebSocket ping, so an endpoint's client that freezes or loses its net "
                "stays present; use `tidewire run`, or uvicorn, where that matters (clients of the Centrifuge protocol "
                "are pinged by tidewire)",
                server,
            )
