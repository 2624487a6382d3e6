"""`tidewire doctor`: judges the safety of a deployment, describes its store, and advises changes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidewire.cli import flags
from tidewire.cli.stores import check_there
from tidewire.cli.terminal import load_settings, out
from tidewire.errors import StoreUnavailable
from tidewire.server.logs import redacted

if TYPE_CHECKING:
    from tidewire.server.settings import Settings

__all__ = ("doctor",)

Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 for any advised change, serious or not.")]
#: The drivers of stores; those that are installed are shown.
_DRIVERS = ("redis", "asyncpg", "nats-py")


def doctor(config: flags.Config = None, broker: flags.Broker = None, strict: Strict = False) -> None:
    """Judge the deployment and its store, and advise changes.

    Exit codes: 0: nothing serious; 1: the store is away; 2: the configuration is wrong; 3: a serious change, or with
    --strict any change, is advised.
    """
    settings = load_settings(config, {"broker": broker}).settings
    from tidewire.server.deployment import judge

    findings = judge(settings, config or Path("tidewire.toml"))
    _show("tidewire", f"{importlib.metadata.version('tidewire')}, Python {platform.python_version()}", *_drivers())
    _show("broker", redacted(settings.broker))
    for finding in findings:
        _show(finding.about, f"{'! ' if finding.serious else ''}{finding.text}")
    if not findings:
        _show("deployment", "nothing to change")
    check_there(settings.broker)
    # A warning of a store at its start stands under "to change", once.
    logging.getLogger("tidewire").addHandler(logging.NullHandler())
    try:
        has_advice = asyncio.run(_examine(settings))
    except StoreUnavailable as error:
        _show("reachable", f"no: {error}")
        raise typer.Exit(1) from None
    if any(finding.serious for finding in findings) or (strict and (findings or has_advice)):
        raise typer.Exit(3)


async def _examine(settings: Settings) -> bool:
    """Show the store; return whether there is something to change in it."""
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
        advice = await broker.advise()
        _show("to change", *(advice or ("nothing",)))
        return bool(advice)
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
