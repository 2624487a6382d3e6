"""The commands, each with the module that has it, which is imported when the command runs."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

__all__ = ("COMMANDS", "Command", "Commands", "listed")


class Command(NamedTuple):
    """A function, or a group of commands, of a module of `tidewire.cli`, and the first line of its help."""

    module: str
    attribute: str
    help: str


#: Each command imports only its own module, and the list of commands imports none.
COMMANDS = {
    "serve": Command("serving", "serve", "Run the chat and notification server."),
    "run": Command(
        "serving", "run", "Run your own application under the same server, with its limits, drain and workers."
    ),
    "user": Command("users", "users", "The users of the server."),
    "token": Command("users", "token", "Print a token of a user, for a script or for a test."),
    "publish": Command(
        "store_commands", "publish", "Publish JSON in a channel, and print its offset when the broker keeps it."
    ),
    "tail": Command("store_commands", "tail", "Show the history of a channel and its publications until Ctrl+C."),
    "bench": Command("store_commands", "bench", "Measure publishing and fan-out on this machine in about ten seconds."),
    "migrate": Command(
        "store_commands", "migrate", "Create or update the tables and functions of the store, before a server starts."
    ),
    "status": Command(
        "operator_commands", "status", "Show the nodes with their connections, rates and troubles, on one screen."
    ),
    "top": Command("operator_commands", "top", "Show the same live, until Ctrl+C."),
    "connections": Command("operator_commands", "connections", "List the connections of all nodes, the newest first."),
    "channels": Command(
        "operator_commands", "channels", "List the channels that have subscribers, those with the most first."
    ),
    "disconnect": Command(
        "operator_commands",
        "disconnect",
        "End the connections of a user on all nodes, so that they do not come back by themselves.",
    ),
    "why": Command(
        "operator_commands",
        "why",
        "Tell whether a user may do something in a channel, and the rule that decides; exit code 1: it may not.",
    ),
    "doctor": Command("doctor", "doctor", "Judge the deployment and its store, and advise changes."),
    "types": Command("types", "types", "Write the types of an application's channels for clients, or compare them."),
    "pipeline": Command("pipeline", "pipelines", "Long jobs with live progress."),
    "docs": Command(
        "manual", "docs", "Show a page of the documentation that belongs to this version, or the list of pages."
    ),
}


def listed() -> None:
    """Return a placeholder for a command in lists, until it is named."""


class Commands(TyperGroup):
    """Imports a command when it is named: to run, to show its own help, or to complete its options."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name."""
        named = COMMANDS.get(args[0])
        if named is not None:
            self.commands[args[0]] = _loaded(args[0], named)
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            if "Did you mean" not in error.message:
                error.message += " `tidewire --help` lists the commands, and `tidewire docs` the pages of the manual."
            raise


def _loaded(name: str, command: Command) -> Any:
    found = getattr(import_module(f"tidewire.cli.{command.module}"), command.attribute)
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # each paragraph is one line, which the terminal wraps
    alone.command(name, help=re.sub(r"(?<!\n)\n +(?=\S)", " ", found.__doc__))(found)
    return typer.main.get_command(alone)
