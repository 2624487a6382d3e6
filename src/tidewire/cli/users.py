"""`tidewire user add|list|remove` and `tidewire token`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tidewire.cli import flags
from tidewire.cli.terminal import load_settings, out, read_stdin, say
from tidewire.errors import ConfigurationError, PublishError, StoreUnavailable
from tidewire.hub import Hub
from tidewire.server.accounts import Accounts, check_name
from tidewire.server.settings import Settings
from tidewire.server.tokens import Tokens, load_key

__all__ = ("token", "users")

T = TypeVar("T")

users: typer.Typer = typer.Typer(help="The users of the server.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="1 to 32 letters, digits, '-', '_' or '.'.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
]
Ttl = Annotated[float | None, typer.Option("--ttl", metavar="SECONDS", min=1, help="How long the token is good for.")]


@users.command()
def add(
    name: Name,
    password_stdin: PasswordStdin = False,
    config: flags.Config = None,
    broker: flags.Broker = None,
    accounts: flags.Accounts = None,
) -> None:
    """Add a user; the password is asked for, twice."""
    settings = _settings(config, broker, accounts)
    check_name(name)
    password = read_stdin(only_a_line=True).rstrip("\r\n") if password_stdin else _ask()
    user = _with_accounts(settings, lambda opened: opened.add_user(name, password))
    say(f"added {user.name}")


@users.command(name="list")
def list_users(config: flags.Config = None, broker: flags.Broker = None, accounts: flags.Accounts = None) -> None:
    """List the users, and when each was added."""
    for user in _with_accounts(_settings(config, broker, accounts), lambda opened: opened.users()):
        since = time.strftime("%Y-%m-%d", time.localtime(user.created))
        out.print(f"{user.name:32} {since}", markup=False)


@users.command()
def remove(
    name: Name, config: flags.Config = None, broker: flags.Broker = None, accounts: flags.Accounts = None
) -> None:
    """Remove a user; tokens of that user are refused from now on, and open connections end."""
    settings = _settings(config, broker, accounts)
    if not _with_accounts(settings, lambda opened: opened.remove_user(name)):
        raise _unknown(name, settings)
    say(f"removed {name}")
    try:
        asyncio.run(_disconnect(settings, name))
    except (PublishError, StoreUnavailable) as error:
        say(f"but open connections of {name} stay until their token expires: {error}")


async def _disconnect(settings: Settings, name: str) -> None:
    """End the connections that a user has on the running servers of this store."""
    async with Hub(settings.broker) as hub:
        await hub.disconnect(user=name, reason="account removed")


def token(
    name: Name,
    ttl: Ttl = None,
    config: flags.Config = None,
    broker: flags.Broker = None,
    accounts: flags.Accounts = None,
    key_file: flags.KeyFile = None,
) -> None:
    """Print a token of a user, for a script or for a test."""
    settings = _settings(config, broker, accounts, key_file)
    user = _with_accounts(settings, lambda opened: opened.find(name))
    if user is None:
        raise _unknown(name, settings)
    tokens = Tokens(load_key(settings.token_key_file), settings.token_seconds)
    out.print(tokens.issue(user.name, seconds=ttl), markup=False)


def _settings(config: Path | None, broker: str | None, accounts: Path | None, key_file: Path | None = None) -> Settings:
    return load_settings(config, {"broker": broker, "accounts": accounts, "key_file": key_file}).settings


def _with_accounts(settings: Settings, work: Callable[[Accounts], Awaitable[T]]) -> T:
    async def run() -> T:
        accounts = Accounts(settings.accounts_file)
        await accounts.open()
        try:
            return await work(accounts)
        finally:
            await accounts.aclose()

    return asyncio.run(run())


def _ask() -> str:
    if not sys.stdin.isatty():
        raise ConfigurationError("there is no terminal to ask for the password; pipe it in and add --password-stdin")
    password: str = typer.prompt("password", hide_input=True, confirmation_prompt="the same again", err=True)
    return password


def _unknown(name: str, settings: Settings) -> ConfigurationError:
    return ConfigurationError(
        f"there is no user {name!r} in {settings.accounts_file}; `tidewire user list` shows who there is"
    )
