"""A command starts without what it does not use, and a command that looks makes nothing."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from tests.server.live_server import tidewire

from tidewire.cli.command_list import COMMANDS

#: What costs a start most of its time.
HEAVY = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "jwt", "cryptography", "uvloop"}


def imported_by(*arguments: str) -> set[str]:
    code = (
        "import sys\n"
        f"sys.argv = {['tidewire', *arguments]!r}\n"
        "from tidewire.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    return set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ()])
def test_the_list_of_commands_imports_no_command(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments) & (HEAVY | {"sqlite3"})


@pytest.mark.parametrize("command", ["serve", "run", "publish", "tail", "doctor"])
def test_the_help_of_a_command_imports_no_server(command: str) -> None:
    assert not imported_by(command, "--help") & (HEAVY - {"pydantic"})  # typer reads options by it


def test_looking_at_a_store_imports_no_server(tmp_path: Path) -> None:
    found = imported_by("tail", "news", "--broker", f"sqlite:///{tmp_path}/none.db")
    assert not found & {"fastapi", "uvicorn", "uvloop"}


def test_asking_a_server_imports_neither_a_server_nor_cryptography(tmp_path: Path) -> None:
    found = imported_by("status", "--server", "http://127.0.0.1:9")
    assert not found & (HEAVY - {"pydantic", "pydantic_settings"})
    (tmp_path / "key").write_text("the-key")
    found = imported_by("status", "--server", "http://127.0.0.1:9", "--key-file", str(tmp_path / "key"))
    assert not found & (HEAVY - {"pydantic"})  # nothing is missing for which the settings would have to be read


def test_the_version_comes_about_as_soon_as_python_does() -> None:
    def seconds(*command: str) -> float:
        """Return the processor's time, which other work on the machine does not prolong much."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-P", *command], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(seconds("-c", "pass") for _ in range(5))
    # it was 60 times as long; the imports of typer and of our errors are 5 to 8 times
    assert min(seconds("-m", "tidewire", "--version") for _ in range(5)) < max(0.3, 15 * bare)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listed_help_is_the_first_line_of_the_command(name: str) -> None:
    command = COMMANDS[name]
    found = getattr(import_module(f"tidewire.cli.{command.module}"), command.attribute)
    text = found.info.help if hasattr(found, "info") else found.__doc__
    assert text.strip().splitlines()[0] == command.help


@pytest.mark.parametrize("arguments", [("tail", "news"), ("doctor",)])
def test_a_command_that_looks_makes_no_database(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = tidewire(*arguments, folder=tmp_path)
    assert ended.returncode == 2
    assert "error: tidewire.db does not exist" in ended.stderr
    assert "`tidewire run`: --broker sqlite:///chat.db" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["tidewire", "tidewire.pipelines"])
def test_each_public_name_is_imported_from_where_checkers_find_it(package: str) -> None:
    module = import_module(package)
    assert module.__file__ is not None
    found = {
        alias.name: node.module
        for condition in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(condition, ast.If)
        for node in condition.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = dict.fromkeys(module.__all__, "tidewire.pipelines.errors" if "." in package else "tidewire.errors")
    assert found == homes | {name: home for home, names in module._HOMES.items() for name in names}
    assert sorted(found) == sorted(module.__all__)
    assert all(getattr(module, name) for name in module.__all__)


def test_the_shell_completes_the_names_of_commands(tmp_path: Path) -> None:
    ended = tidewire(folder=tmp_path, _TIDEWIRE_COMPLETE="complete_bash", COMP_WORDS="tidewire doct", COMP_CWORD="1")
    assert ended.stdout.split() == ["doctor"]
