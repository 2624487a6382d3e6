"""Options that several commands have; without an option, its setting comes from the environment or the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option("--config", help="Settings file, instead of ./tidewire.toml.")]
App = Annotated[str | None, typer.Option("--app", metavar="MODULE:APP", help="An application, or its hub.")]
Broker = Annotated[str | None, typer.Option("--broker", help="Where messages are kept, e.g. sqlite:///tidewire.db.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0: any free one.")]
Uds = Annotated[Path | None, typer.Option("--uds", help="Unix socket to listen on, instead of host and port.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes that share the port.")]
Limit = Annotated[list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="A limit; may be repeated.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="critical, error, warning, info or debug.")]
LogFormat = Annotated[str | None, typer.Option("--log-format", help="text or json.")]
AccessLog = Annotated[bool | None, typer.Option("--access-log/--no-access-log", help="Log requests, without queries.")]
Proxies = Annotated[
    str | None,
    typer.Option("--trusted-proxies", metavar="ADDRESS,…", help="Proxies whose X-Forwarded-* headers are believed."),
]
Origins = Annotated[
    str | None, typer.Option("--allowed-origins", metavar="ORIGIN,…", help="Origins whose pages may connect.")
]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate chain: serve https and wss.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM private key of the certificate.")]
Deflate = Annotated[bool | None, typer.Option("--deflate/--no-deflate", help="Compress messages.")]
Accounts = Annotated[Path | None, typer.Option("--accounts", help="SQLite file of the users and rooms.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="File of the key that signs tokens.")]
TokenSeconds = Annotated[float | None, typer.Option("--token-seconds", help="How long a token is valid.")]
Signup = Annotated[bool | None, typer.Option("--signup/--no-signup", help="Strangers may make an account.")]
Tutorial = Annotated[
    bool | None, typer.Option("--tutorial/--no-tutorial", help="The tutorial's endpoints (default: on loopback only).")
]
Playground = Annotated[
    bool | None,
    typer.Option("--playground/--no-playground", help="A page that cuts connections, for development on loopback."),
]
WorkerSeconds = Annotated[
    float | None, typer.Option("--worker-seconds", help="Seconds of silence after which a worker is killed.")
]
Reload = Annotated[bool, typer.Option("--reload", help="Start again when a Python file changes, while you develop.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print every setting and its origin, and end.")]
