"""`tidewire serve` and `tidewire run`."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import asdict
from rich.markup import escape

from tidewire.cli import flags
from tidewire.cli.terminal import load_settings, out, say
from tidewire.server.logs import redacted

if TYPE_CHECKING:
    from tidewire.server.settings import Loaded

__all__ = ("run", "serve")

#: Options that are no settings.
_OF_THE_COMMAND = frozenset({"application", "config", "limit", "print_config", "reload"})


def serve(
    config: flags.Config = None,
    host: flags.Host = None,
    port: flags.Port = None,
    uds: flags.Uds = None,
    broker: flags.Broker = None,
    workers: flags.Workers = None,
    accounts: flags.Accounts = None,
    key_file: flags.KeyFile = None,
    token_seconds: flags.TokenSeconds = None,
    signup: flags.Signup = None,
    tutorial: flags.Tutorial = None,
    playground: flags.Playground = None,
    allowed_origins: flags.Origins = None,
    trusted_proxies: flags.Proxies = None,
    deflate: flags.Deflate = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
    access_log: flags.AccessLog = None,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    worker_seconds: flags.WorkerSeconds = None,
    limit: flags.Limit = None,
    print_config: flags.PrintConfig = False,
) -> None:
    """Run the chat and notification server."""
    given = _given(locals())
    loaded = load_settings(config, given, limit)
    if print_config:
        _print_config(loaded)
    else:
        _run(loaded, None)


def run(
    application: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="Any ASGI application, or a function that makes it.")
    ],
    config: flags.Config = None,
    host: flags.Host = None,
    port: flags.Port = None,
    uds: flags.Uds = None,
    workers: flags.Workers = None,
    trusted_proxies: flags.Proxies = None,
    deflate: flags.Deflate = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
    access_log: flags.AccessLog = None,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    worker_seconds: flags.WorkerSeconds = None,
    limit: flags.Limit = None,
    reload: flags.Reload = False,
) -> None:
    """Run your own application under the same server, with its limits, drain and workers."""
    given = _given(locals())
    _run(load_settings(config, given, limit), application, reload=reload)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_THE_COMMAND}


def _run(loaded: Loaded, application: str | None, *, reload: bool = False) -> None:
    from tidewire.server.run import run as run_server

    settings = loaded.settings

    def announce(url: str) -> None:
        what = application or redacted(settings.broker)
        workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers of process {os.getpid()}"
        version = importlib.metadata.version("tidewire")
        say(f"[bold]tidewire[/] {version} · [bold cyan]{escape(url)}[/] · {escape(what)} · {workers} · Ctrl+C to stop")

    if settings.workers > 1 and out.is_terminal:  # a program reads the first line as the address
        say(f"starting {settings.workers} workers …")
    run_server(settings, app=application, limits=_given_limits(loaded), reload=reload, announce=announce)


def _given_limits(loaded: Loaded) -> dict[str, float]:
    limits = asdict(loaded.settings.limits)
    return {name: value for name, value in limits.items() if f"limits.{name}" in loaded.origins}


def _print_config(loaded: Loaded) -> None:
    lines = list(loaded.lines())
    width = max(len(f"{name} = {value}") for name, value, _ in lines)
    for name, value, origin in lines:
        out.print(f"{name} = {value}".ljust(width) + f"  # {origin}", markup=False)
