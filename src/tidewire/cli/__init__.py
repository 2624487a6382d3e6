"""The command line: `tidewire serve` and its companions; a user's mistake is answered in one line."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated

import typer

from tidewire.cli import doctor, pipeline, serving, store_commands, users
from tidewire.cli.terminal import complain, out
from tidewire.errors import TidewireError

__all__ = ("main",)

app: typer.Typer = typer.Typer(
    name="tidewire",
    help="The realtime layer for FastAPI: a chat and notification server, and its tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serving.serve)
app.command()(serving.run)
app.add_typer(users.users, name="user")
app.command()(users.token)
app.command()(store_commands.publish)
app.command()(store_commands.tail)
app.command()(store_commands.bench)
app.command()(store_commands.migrate)
app.command()(doctor.doctor)
app.add_typer(pipeline.pipelines, name="pipeline")


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"tidewire {importlib.metadata.version('tidewire')}")
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
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        code = complain(error.format_message()) if error.format_message() else 2  # without a command the help was shown
    except TidewireError as error:
        code = complain(str(error))
    except BrokenPipeError:
        # The reader of the pipe has gone: keep the interpreter from failing when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
