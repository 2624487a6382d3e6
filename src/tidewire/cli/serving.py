"""`tidewire serve` and `tidewire run`."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer
from rich.markup import escape

from tidewire.cli import options
from tidewire.cli.terminal import load_settings, out, say
from tidewire.server.settings import Loaded, Settings, redacted

__all__ = ("run", "serve")


def serve(
    config: options.Config = None,
    host: options.Host = None,
    port: options.Port = None,
    broker: options.Broker = None,
    workers: options.Workers = None,
    accounts: options.Accounts = None,
    key_file: options.KeyFile = None,
    token_seconds: options.TokenSeconds = None,
    signup: options.Signup = None,
    tutorial: options.Tutorial = None,
    allowed_origins: options.Origins = None,
    trusted_proxies: options.Proxies = None,
    deflate: options.Deflate = None,
    log_level: options.LogLevel = None,
    access_log: options.AccessLog = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    worker_seconds: options.WorkerSeconds = None,
    limit: options.Limit = None,
    print_config: options.PrintConfig = False,
) -> None:
    """Run the chat and notification server."""
    flags = {name: value for name, value in locals().items() if name in Settings.model_fields}
    loaded = load_settings(config, flags, limit)
    if print_config:
        _print_config(loaded)
    else:
        _run(loaded.settings, None)


def run(
    application: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Any ASGI application.")],
    config: options.Config = None,
    host: options.Host = None,
    port: options.Port = None,
    workers: options.Workers = None,
    trusted_proxies: options.Proxies = None,
    deflate: options.Deflate = None,
    log_level: options.LogLevel = None,
    access_log: options.AccessLog = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    worker_seconds: options.WorkerSeconds = None,
    limit: options.Limit = None,
) -> None:
    """Run an application of your own under the same server: its limits, its drain, its workers."""
    flags = {name: value for name, value in locals().items() if name in Settings.model_fields}
    _run(load_settings(config, flags, limit).settings, application)


def _run(settings: Settings, application: str | None) -> None:
    from tidewire.server.run import run as run_server

    def announce(url: str) -> None:
        what = application or redacted(settings.broker)
        workers = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
        version = importlib.metadata.version("tidewire")
        say(f"[bold]tidewire[/] {version} · [bold cyan]{escape(url)}[/] · {escape(what)} · {workers} · Ctrl+C to stop")

    run_server(settings, app=application, announce=announce)


def _print_config(loaded: Loaded) -> None:
    lines = list(loaded.lines())
    width = max(len(f"{name} = {value}") for name, value, _ in lines)
    for name, value, origin in lines:
        out.print(f"{name} = {value}".ljust(width) + f"  # {origin}", markup=False)
