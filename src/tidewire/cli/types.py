"""`tidewire types`: an application's channels as TypeScript, Python or a document, and changes that break clients."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidewire.cli.terminal import say
from tidewire.errors import ConfigurationError

__all__ = ("types",)

Application = Annotated[str, typer.Argument(metavar="MODULE:APP", help="Your application, or its hub.")]
Output = Annotated[Path | None, typer.Argument(metavar="FILE", help="The file to write; without one: to the terminal.")]
TypeScript = Annotated[bool, typer.Option("--typescript", help="For tidewire.js and the package centrifuge.")]
Python = Annotated[bool, typer.Option("--python", help="For tidewire.client.")]
Json = Annotated[bool, typer.Option("--json", help="The AsyncAPI document, which --compat compares with.")]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; end with 1 if FILE is out of date.")]
Compat = Annotated[
    Path | None,
    typer.Option("--compat", metavar="DOCUMENT", help="End with 1 if deployed clients, which know this, would break."),
]


def types(
    application: Application,
    file: Output = None,
    typescript: TypeScript = False,
    python: Python = False,
    json: Json = False,
    check: Check = False,
    compat: Compat = None,
) -> int:
    """Write the types of an application's channels for clients, or compare them."""
    document = _document(application)
    if typescript + python + json > 1:
        raise ConfigurationError("write one kind into one file: --typescript, --python or --json")
    if compat is not None:
        return _compare(compat, document)
    if not (typescript or python or json):
        typescript, python, json = _kind_of(file)
    text = _text(document, typescript=typescript, python=python)
    if check:
        return _check(file, text)
    if file is None:
        sys.stdout.write(text)
    else:
        _write(file, text)
        say(f"wrote {file}")
    return 0


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from None


def _document(application: str) -> dict[str, Any]:
    from tidewire.cli.applications import load_application

    hub, app = load_application(application)
    return hub.asyncapi(app)


def _kind_of(file: Path | None) -> tuple[bool, bool, bool]:
    suffix = "" if file is None else file.suffix
    if suffix not in (".ts", ".py", ".json"):
        raise ConfigurationError("write --typescript, --python or --json, or a FILE that ends with .ts, .py or .json")
    return suffix == ".ts", suffix == ".py", suffix == ".json"


def _text(document: Mapping[str, Any], *, typescript: bool, python: bool) -> str:
    if typescript:
        from tidewire.asyncapi.typescript import typescript as written

        return written(document)
    if python:
        from tidewire.asyncapi.python import python as written

        return written(document)
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _check(file: Path | None, text: str) -> int:
    if file is None:
        raise ConfigurationError("--check compares a FILE with the current types; name it")
    there = file.read_text(encoding="utf-8") if file.is_file() else None
    if there == text:
        say(f"{file} is up to date")
        return 0
    say(f"{file} is {'missing' if there is None else 'old'}: write it again, without --check")
    return 1


def _compare(old: Path, document: Mapping[str, Any]) -> int:
    from tidewire.asyncapi.compatibility import breaking_changes

    try:
        known = msgspec.json.decode(old.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{old} cannot be read as a document ({error}); write one by --json") from None
    changes = breaking_changes(known, document)
    for change in changes:
        say(change)
    if not changes:
        say(f"nothing breaks clients that know {old}")
    return 1 if changes else 0
