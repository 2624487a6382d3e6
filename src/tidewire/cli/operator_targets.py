"""The targets of the commands that watch and act: a server, by its HTTP API, or the nodes of a store, by the store."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidewire.cli.stores import check_there
from tidewire.cli.terminal import load_settings
from tidewire.errors import CommandError, ConfigurationError, StoreUnavailable, TidewireError

if TYPE_CHECKING:
    from tidewire.server.settings import Settings

__all__ = ("Call", "Unredirected", "observed")

#: Calls a method of the HTTP API and returns its result.
Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_SECONDS = 10.0


@contextlib.asynccontextmanager
async def observed(
    config: Path | None, broker: str | None, server: str | None, key_file: Path | None
) -> AsyncIterator[Call]:
    """Return a caller of a server's API, or of the same calls at a store. Raises ConfigurationError."""
    if server is not None:
        yield _Server(server, _key(config, key_file))
        return
    settings = load_settings(config, {"broker": broker}).settings
    if settings.broker.startswith("memory:"):
        raise ConfigurationError("memory:// lives inside the server's process; name it with --server and --key-file")
    check_there(settings.broker)
    async with _at_store(settings) as call:
        yield call


def _key(config: Path | None, key_file: Path | None) -> str:
    if key_file is None:
        return load_settings(config, {}).settings.http_api.key.get_secret_value()
    try:
        key = key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(f"{key_file} cannot be read ({reason}); write the key of the API there") from None
    if not key.isprintable():
        raise ConfigurationError(f"{key_file} holds no key, but several lines; write the key of the API there, alone")
    return key


class Unredirected(urllib.request.HTTPRedirectHandler):
    """Goes to no other address that an answer names, because the key would go there, too."""

    def redirect_request(self, *_: object) -> None:
        return None


class _Server:
    """The HTTP API of a server, asked without a library, so that a command starts soon."""

    def __init__(self, url: str, key: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"--server {url!r} is no address; write it as http://127.0.0.1:8000")
        self._url = url.rstrip("/")
        self._key = key
        self._opener = urllib.request.build_opener(Unredirected)

    async def __call__(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(self._post, method, body)

    def _post(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | (
            {"X-API-Key": self._key.encode().decode("latin-1")} if self._key else {}
        )
        request = urllib.request.Request(f"{self._url}/api/{method}", json.dumps(body).encode(), headers)
        try:
            with self._opener.open(request, timeout=_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ConfigurationError(_explained(error, self._url, has_key=bool(self._key))) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _unanswered(getattr(error, "reason", error), self._url) from None
        if not isinstance(answer, dict) or "result" not in answer:
            failed = answer.get("error", {}) if isinstance(answer, dict) else {}
            raise CommandError(failed.get("detail") or failed.get("message") or f"{self._url} is no tidewire server")
        result: dict[str, Any] = answer["result"]
        return result


def _unanswered(reason: object, url: str) -> TidewireError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        why = reason.verify_message
        return ConfigurationError(
            f"{url} shows a certificate that is not trusted here ({why}); name the file of the authority that signed "
            "it, or of a self-signed one, in SSL_CERT_FILE"
        )
    if isinstance(reason, ssl.SSLError):
        return ConfigurationError(f"{url} does not speak TLS; write http:// before its address")
    if isinstance(reason, http.client.HTTPException | ConnectionResetError):
        return StoreUnavailable(f"{url} ends the connection without an answer; if it has TLS, write https://")
    words = getattr(reason, "strerror", None) or str(reason)
    return StoreUnavailable(f"{url} does not answer ({words}); is the server running?")


def _explained(error: urllib.error.HTTPError, url: str, *, has_key: bool) -> str:
    if error.code == 401 and has_key:
        return f"{url} does not take this key; give the one that it has as http_api.key"
    if error.code == 401:
        return f"{url} wants the key of its HTTP API; give it with --key-file, or as TIDEWIRE_HTTP_API__KEY"
    if error.code == 404:
        return f"{url} has no HTTP API; set http_api.key there (or add hub.api_router(key=…))"
    elsewhere = str(error.headers.get("Location", "")).partition("/api/")[0]
    if 300 <= error.code < 400 and elsewhere:
        return f"{url} sends its visitors to {elsewhere}; if that is yours, ask it: --server {elsewhere}"
    return f"{url} answers {error.code} {error.reason}"


@contextlib.asynccontextmanager
async def _at_store(settings: Settings) -> AsyncIterator[Call]:
    import importlib.metadata

    from tidewire.backends import open_backend
    from tidewire.channel_options import ChannelOptions
    from tidewire.engine.node import Node
    from tidewire.http_api.calls import Calls
    from tidewire.http_api.models import encode
    from tidewire.http_api.nodes import Nodes

    node = Node(*open_backend(settings.broker, settings.limits), limits=settings.limits)
    await node.start()
    try:
        # it asks the nodes without being counted as one of them
        nodes = Nodes(node, version=importlib.metadata.version("tidewire"))
        calls = Calls(node, nodes, lambda _: ChannelOptions(presence=True))

        async def call(method: str, body: dict[str, Any]) -> dict[str, Any]:
            result: dict[str, Any] = json.loads(encode(await calls.call(method, json.dumps(body).encode())))
            if "nodes" in result:
                result["nodes"] = [one for one in result["nodes"] if one.get("node", one.get("uid")) != node.id]
            return result

        yield call
    finally:
        await node.aclose()
