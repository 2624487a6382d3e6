"""`tidewire user add|list|revoke|remove` and `tidewire token`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tidewire.channels import personal
from tidewire.cli import flags
from tidewire.cli.terminal import count, load_settings, out, read_stdin, say
from tidewire.errors import ConfigurationError, PublishError, StoreUnavailable
from tidewire.server.accounts import Accounts, check_name
from tidewire.server.login_sessions import User, apart_user
from tidewire.server.login_tokens import Tokens, load_key
from tidewire.server.settings import Settings

__all__ = ("token", "users")

T = TypeVar("T")

users: typer.Typer = typer.Typer(help="The users of the server.", no_args_is_help=True)

#: Said of an account that no server of this version has had.
_UNSURE = (
    "private messages: kept, unless they are surely of this account and not of the application's user of its name: "
    "that is known of accounts which are there when the server starts"
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="1 to 32 letters, digits, '-', '_' or '.'.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
]
Ttl = Annotated[float | None, typer.Option("--ttl", metavar="SECONDS", min=1, help="How long the token is valid.")]


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
    """Remove a user, with private messages and sessions; a later account of the same name gets none of them."""
    settings = _settings(config, broker, accounts)
    removed = _with_accounts(settings, lambda opened: opened.remove_user(name))
    if removed is None:
        raise _unknown(name, settings)
    say(f"removed {removed.user.name}")
    say(f"sessions: {removed.sessions} ended, with their connections")
    for line in asyncio.run(_remove_belongings(settings, removed.user)):
        say(line)
    if removed.rooms:
        say(f"rooms: {removed.rooms} kept, which now belong to nobody")


@users.command()
def revoke(
    name: Name, config: flags.Config = None, broker: flags.Broker = None, accounts: flags.Accounts = None
) -> None:
    """End all sessions of a user, with their connections; the user may log in again."""
    settings = _settings(config, broker, accounts)

    async def end(opened: Accounts) -> int | None:
        user = await opened.find(name)
        return None if user is None else await opened.sessions.end(user.id)

    ended = _with_accounts(settings, end)
    if ended is None:
        raise _unknown(name, settings)
    say(f"ended {count(ended, 'session')} of {name}")


async def _remove_belongings(settings: Settings, user: User) -> Iterator[str]:
    """Remove the messages that only this user could read, and return a sentence about them."""
    lines = []
    if settings.broker.startswith("memory:"):
        lines.append("private messages: kept in the memory of the server alone, until it ends")
    else:
        try:
            from tidewire.hub import Hub

            async with Hub(settings.broker) as hub:
                await hub.node.remove_history(personal(apart_user(user.id) if user.apart is None else user.hub_user))
            lines.append(_UNSURE if user.apart is None else "private messages: removed")
        except (PublishError, StoreUnavailable) as error:
            lines.append(f"private messages: not removed ({error}); nobody can read them")
    if settings.pipelines.enabled and settings.runs_folder.exists():
        lines.append("pipeline runs: kept, for connections from the server's own machine alone")
    return iter(lines)


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
    tokens = Tokens(load_key(settings.token_key_file), settings.token_seconds)

    async def issue(opened: Accounts) -> str | None:
        user = await opened.find(name)
        if user is None:
            return None
        seconds = tokens.seconds if ttl is None else ttl
        return tokens.issue(user.id, await opened.sessions.start(user.id, seconds, "tidewire token"))

    issued = _with_accounts(settings, issue)
    if issued is None:
        raise _unknown(name, settings)
    out.print(issued, markup=False)


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
        f"there is no user {name!r} in {settings.accounts_file}; `tidewire user list` shows all users"
    )
