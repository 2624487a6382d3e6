"""The command line: `tidewire serve` and its companions; a user's mistake is answered in one line."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated

import typer

from tidewire.cli.command_list import COMMANDS, Commands, listed
from tidewire.errors import TidewireError

__all__ = ("main",)

app: typer.Typer = typer.Typer(
    name="tidewire",
    cls=Commands,
    help="The realtime layer for FastAPI: a server, and its tools. `tidewire docs skill` has it on one page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name, help=command.help)(listed)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tidewire {importlib.metadata.version('tidewire')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(prog_name="tidewire", standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        code = _complain(error.format_message()) if error.format_message() else 2  # without a command: its help
    except TidewireError as error:
        code = _complain(str(error))
    except BrokenPipeError:
        # The reader of the pipe has gone: keep the interpreter from failing when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    from tidewire.cli.terminal import complain

    return complain(message)
