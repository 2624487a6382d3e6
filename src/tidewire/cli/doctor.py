"""`tidewire doctor`: is the configured store reachable, what does it promise, and what should be changed in it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from tidewire.cli import flags
from tidewire.cli.stores import check_there
from tidewire.cli.terminal import load_settings, out
from tidewire.errors import StoreUnavailable
from tidewire.server.logs import redacted

if TYPE_CHECKING:
    from tidewire.server.settings import Settings

__all__ = ("doctor",)

#: The drivers of stores, of which those that are installed are shown.
_DRIVERS = ("redis", "asyncpg", "nats-py")


def doctor(config: flags.Config = None, broker: flags.Broker = None) -> None:
    """Look at the configured store: reachable, what it keeps, and what to change."""
    settings = load_settings(config, {"broker": broker}).settings
    _show("tidewire", f"{importlib.metadata.version('tidewire')}, Python {platform.python_version()}", *_drivers())
    _show("broker", redacted(settings.broker))
    check_there(settings.broker)
    # A warning of a store at its start stands under "to change", once.
    logging.getLogger("tidewire").addHandler(logging.NullHandler())
    try:
        asyncio.run(_examine(settings))
    except StoreUnavailable as error:
        _show("reachable", f"no: {error}")
        raise typer.Exit(1) from None


async def _examine(settings: Settings) -> None:
    from tidewire.backends import open_backend

    broker, _ = open_backend(settings.broker, settings.limits)
    start = time.perf_counter()
    await broker.start(lambda _: None)
    try:
        opened = time.perf_counter()
        await broker.positions(["doctor"])
        answered = time.perf_counter()
        _show("reachable", f"opened in {(opened - start) * 1e3:.1f} ms, answers in {(answered - opened) * 1e3:.1f} ms")
        _show("kept", f"publish returns when a message is {broker.kept}")
        _show("shared", "by all processes that can reach it" if broker.shared else "with nobody: one process")
        _show("store", *await broker.describe())
        _show("to change", *(await broker.advise() or ("nothing",)))
    finally:
        await broker.aclose()


def _drivers() -> Iterator[str]:
    for name in _DRIVERS:
        try:
            yield f"driver {name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def _show(name: str, *lines: str) -> None:
    for number, line in enumerate(lines):
        out.print(f"{'' if number else name:<10} {line}", markup=False)
