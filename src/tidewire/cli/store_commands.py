"""`tidewire publish`, `tail`, `migrate` and `bench`: the configured broker, opened beside the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tidewire.channels import check_channel
from tidewire.cli import flags
from tidewire.cli.stores import check_there
from tidewire.cli.terminal import load_settings, out, read_stdin, say
from tidewire.errors import ConfigurationError
from tidewire.messages import Format, Position, Publication, PublishRequest
from tidewire.protocols.payload import encode_json, encode_payload
from tidewire.retention import Retention
from tidewire.server.logs import harmless, redacted

if TYPE_CHECKING:
    from tidewire.backends.base import Broker, Deliver
    from tidewire.server.settings import Settings

__all__ = ("bench", "migrate", "publish", "tail")

Channel = Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel, e.g. room:lobby.")]
Data = Annotated[str, typer.Argument(metavar="JSON", help="The JSON to publish; - reads it from stdin.")]
Key = Annotated[str, typer.Option("--key", help="Published once, however often this is repeated within 5 minutes.")]
History = Annotated[int, typer.Option("--history", metavar="N", min=0, help="Show the newest N first.")]
Since = Annotated[int | None, typer.Option("--since", metavar="OFFSET", min=0, help="Show all that came after first.")]
Lines = Annotated[bool, typer.Option("--json", help="One JSON object a line, for a program.")]


def publish(
    channel: Channel,
    data: Data,
    key: Key = "",
    app: flags.App = None,
    config: flags.Config = None,
    broker: flags.Broker = None,
) -> None:
    """Publish JSON in a channel, and print its offset when the broker keeps it.

    A string of JSON is published as text. With --app the store and the types of messages are those of that
    application's hub.
    """
    hub = None
    if app is not None:
        from tidewire.cli.applications import load_hub

        hub = load_hub(app)
    settings = _settings(config, broker or (None if hub is None else hub.url), channel)
    text = read_stdin() if data == "-" else data
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ConfigurationError(
            f"{text[:60]!r} is not JSON ({error}); a text needs double quotes inside: '\"hello\"'"
        ) from None
    shape = None if hub is None else hub.authority.shape(channel)
    payload = encode_payload(value) if shape is None else shape.check(encode_json(value), Format.JSON)
    position = asyncio.run(_publish(settings, PublishRequest(channel, *payload, key)))
    say(f"kept at offset {position.offset} (epoch {position.epoch})")


def tail(
    channel: Channel,
    history: History = 10,
    since: Since = None,
    lines: Lines = False,
    config: flags.Config = None,
    broker: flags.Broker = None,
) -> None:
    """Show the history of a channel and its publications until Ctrl+C."""
    settings = _settings(config, broker, channel)
    check_there(settings.broker)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Tail(channel, lines).run(settings, history, since))


def migrate(config: flags.Config = None, broker: flags.Broker = None) -> None:
    """Create or update the tables and functions of the store, before a server starts."""
    settings = _settings(config, broker)
    asyncio.run(_migrate(settings))
    say(f"{redacted(settings.broker)} is ready")


def bench(config: flags.Config = None, broker: flags.Broker = None) -> None:
    """Measure publishing and fan-out on this machine in about ten seconds."""
    from tidewire.cli.benchmark import fan_out, publishing

    settings = load_settings(config, {"broker": broker}).settings
    say(f"publishing by {redacted(settings.broker).partition(':')[0]}:// …")
    for line in publishing(settings):
        say(line)
    say("fan-out over real sockets …")
    say(fan_out(settings))


def _settings(config: Path | None, broker: str | None, channel: str | None = None) -> Settings:
    settings = load_settings(config, {"broker": broker}).settings
    if settings.broker.startswith("memory:"):
        raise ConfigurationError("memory:// lives inside the server's process; name a broker that others can open")
    if channel is not None:
        check_channel(channel, settings.limits.channel_name)
    return settings


@contextlib.asynccontextmanager
async def _opened(settings: Settings, deliver: Deliver) -> AsyncIterator[Broker]:
    from tidewire.backends import open_backend

    broker, _ = open_backend(settings.broker, settings.limits)
    await broker.start(deliver)
    try:
        yield broker
    finally:
        await broker.aclose()


async def _migrate(settings: Settings) -> None:
    async with _opened(settings, lambda _: None):
        pass


async def _publish(settings: Settings, request: PublishRequest) -> Position:
    async with _opened(settings, lambda _: None) as broker:
        return await broker.publish(request)


class _Tail:
    """Prints the publications of one channel in order, each once, and reports gaps."""

    def __init__(self, channel: str, lines: bool) -> None:
        self._channel = channel
        self._show = _show_json if lines else _show
        self._arrived: asyncio.Queue[Sequence[Publication]] = asyncio.Queue()
        self._last = Position(0, "")

    async def run(self, settings: Settings, history: int, since: int | None) -> None:
        async with _opened(settings, self._arrived.put_nowait) as broker:
            top = await broker.subscribe(self._channel)
            if since is not None:
                self._last = Position(since, top.epoch)
                await self._fill(broker)
            else:
                page = await broker.history(self._channel, limit=history, reverse=True, retention=Retention(history))
                self._last = page.top
                for publication in reversed(page.publications):
                    self._show(publication)
            while True:
                for publication in await self._arrived.get():
                    await self._take(broker, publication)

    async def _take(self, broker: Broker, publication: Publication) -> None:
        if publication.epoch != self._last.epoch:
            self._miss("the store has lost its history; a new epoch begins")
            self._last = Position(0, publication.epoch)
        if publication.offset <= self._last.offset:
            return
        if publication.previous > self._last.offset:
            await self._fill(broker)
        if publication.offset > self._last.offset:
            self._advance(publication)

    async def _fill(self, broker: Broker) -> None:
        page = await broker.history(self._channel, since=self._last)
        if not page.complete:
            self._miss(f"publications after offset {self._last.offset} are not all stored any more")
        for publication in page.publications:
            self._advance(publication)

    def _advance(self, publication: Publication) -> None:
        self._show(publication)
        self._last = Position(publication.offset, publication.epoch)

    def _miss(self, what: str) -> None:
        print(f"# {what}", file=sys.stderr, flush=True)


def _show(publication: Publication) -> None:
    when = time.strftime("%H:%M:%S", time.localtime(publication.time))
    if publication.format is Format.BINARY:
        text = f"({len(publication.data)} bytes) {publication.data[:64].hex()}"
    else:
        text = harmless(publication.data.decode(errors="replace"))
    if out.is_terminal:
        out.print(f"[dim]{when}[/] [cyan]{publication.offset:>6}[/] ", end="")
    else:
        out.print(f"{when} {publication.offset} ", end="")
    out.print(text, markup=False)
    sys.stdout.flush()


def _show_json(publication: Publication) -> None:
    binary = publication.format is Format.BINARY
    data = publication.data.hex() if binary else publication.data.decode(errors="replace")
    value = json.loads(data) if publication.format is Format.JSON else data
    shown = {"offset": publication.offset, "epoch": publication.epoch, "time": publication.time, "data": value}
    # ASCII, so that it cannot contain an escape sequence of the terminal.
    print(json.dumps(shown, ensure_ascii=True), flush=True)
