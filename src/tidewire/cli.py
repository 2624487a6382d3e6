"""The command line: `tidewire serve`, and what one does beside a server; a mistake of the user is one line."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tidewire.errors import ConfigurationError, TidewireError
from tidewire.server.settings import Loaded, Settings, load, redacted, unknown_variables

__all__ = ("main",)

app = typer.Typer(
    name="tidewire",
    help="The realtime layer for FastAPI: a chat and notification server, and its tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_out, _err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

Config = Annotated[Path | None, typer.Option("--config", help="Settings file, instead of ./tidewire.toml.")]
Broker = Annotated[str | None, typer.Option("--broker", help="Where messages are kept, e.g. sqlite:///tidewire.db.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0: any free one.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes that share the port.")]
Limit = Annotated[list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="A limit; may be repeated.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="critical, error, warning, info or debug.")]
AccessLog = Annotated[bool | None, typer.Option("--access-log/--no-access-log", help="Log requests, without queries.")]
Proxies = Annotated[
    str | None, typer.Option("--trusted-proxies", metavar="ADDRESS,…", help="Whose X-Forwarded-* is believed.")
]
Origins = Annotated[str | None, typer.Option("--allowed-origins", metavar="ORIGIN,…", help="Whose pages may connect.")]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate chain: serve https and wss.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM private key of the certificate.")]
Deflate = Annotated[bool | None, typer.Option("--deflate/--no-deflate", help="Compress messages.")]
Accounts = Annotated[Path | None, typer.Option("--accounts", help="SQLite file of the users and rooms.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="File of the key that signs tokens.")]
TokenSeconds = Annotated[float | None, typer.Option("--token-seconds", help="How long a token is good for.")]
Signup = Annotated[bool | None, typer.Option("--signup/--no-signup", help="Strangers may make an account.")]
Tutorial = Annotated[
    bool | None, typer.Option("--tutorial/--no-tutorial", help="The tutorial's endpoints (default: on loopback only).")
]
WorkerSeconds = Annotated[
    float | None, typer.Option("--worker-seconds", help="Silence after which a worker is frozen.")
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print every setting and its origin, and end.")]


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(f"tidewire {importlib.metadata.version('tidewire')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    broker: Broker = None,
    workers: Workers = None,
    accounts: Accounts = None,
    key_file: KeyFile = None,
    token_seconds: TokenSeconds = None,
    signup: Signup = None,
    tutorial: Tutorial = None,
    allowed_origins: Origins = None,
    trusted_proxies: Proxies = None,
    deflate: Deflate = None,
    log_level: LogLevel = None,
    access_log: AccessLog = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    worker_seconds: WorkerSeconds = None,
    limit: Limit = None,
    print_config: PrintConfig = False,
) -> None:
    """Run the chat and notification server."""
    flags = {name: value for name, value in locals().items() if name in Settings.model_fields}
    loaded = _load(config, flags, limit)
    if print_config:
        _print_config(loaded)
    else:
        _run(loaded.settings, None)


@app.command()
def run(
    application: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Any ASGI application.")],
    config: Config = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    trusted_proxies: Proxies = None,
    deflate: Deflate = None,
    log_level: LogLevel = None,
    access_log: AccessLog = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    worker_seconds: WorkerSeconds = None,
    limit: Limit = None,
) -> None:
    """Run an application of your own under the same server: its limits, its drain, its workers."""
    flags = {name: value for name, value in locals().items() if name in Settings.model_fields}
    _run(_load(config, flags, limit).settings, application)


def _load(config: Path | None, flags: dict[str, Any], limits: list[str] | None = None) -> Loaded:
    table = {}
    for given in limits or ():
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigurationError(f"--limit {given!r} has no value; write it as --limit message_size=131072")
        table[name.strip()] = value.strip()
    for warning in unknown_variables():
        _err.print(f"warning: {escape(warning)}")
    return load(config, flags | {"limits": table or None})


def _run(settings: Settings, application: str | None) -> None:
    from tidewire.server.run import run as run_server

    def announce(url: str) -> None:
        what = application or redacted(settings.broker)
        workers = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
        version = importlib.metadata.version("tidewire")
        _out.print(
            f"[bold]tidewire[/] {version} · [bold cyan]{escape(url)}[/] · {escape(what)} · {workers} · Ctrl+C to stop"
        )
        sys.stdout.flush()

    run_server(settings, app=application, announce=announce)


def _print_config(loaded: Loaded) -> None:
    lines = list(loaded.lines())
    width = max(len(f"{name} = {value}") for name, value, _ in lines)
    for name, value, origin in lines:
        _out.print(f"{name} = {value}".ljust(width) + f"  # {origin}", markup=False)


def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        code = _complain(error.format_message())
    except TidewireError as error:
        code = _complain(str(error))
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    text = " ".join(message.split())
    _err.print(f"[bold red]error:[/] {escape(text)}")
    return 2
