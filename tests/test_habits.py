"""What a change has to pass is the same in the Makefile, before a commit, and at the host."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType

import pytest

import tidewire

ROOT = Path(__file__).parents[1]


def makefile(target: str) -> list[str]:
    """Return the commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def public(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Return the functions and classes that a module exports, and the public methods that begin in it.

    A method of a class with bases may have its words on the contract; a test of a contract suite has them in its name.
    """
    exported = {
        element.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
        for element in ast.walk(node.value)
        if isinstance(element, ast.Constant)
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in exported:
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) and not node.bases else ():
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    decorators = {ast.unparse(decorator) for decorator in inner.decorator_list}
                    if not inner.name.startswith(("_", "test_")) and "overload" not in decorators:
                        yield f"{node.name}.{inner.name}", inner


def test_every_public_name_has_its_docstring() -> None:
    source = ROOT / "src" / "tidewire"
    missing = [
        f"{path.relative_to(source)}: {name}"
        for path in sorted(source.rglob("*.py"))
        for name, node in public(ast.parse(path.read_text()))
        if not ast.get_docstring(node)
    ]
    assert not missing, "\n".join(missing)


def test_every_name_of_the_package_has_its_docstring() -> None:
    """That of a method of a contract is its contract's."""
    classes = {name: found for name in tidewire.__all__ if inspect.isclass(found := getattr(tidewire, name))}
    members = {
        f"{name}.{part}": member
        for name, made in classes.items()
        for part in dir(made)
        if not part.startswith("_") and isinstance(member := getattr(made, part), property | FunctionType | MethodType)
    }
    assert len(members) > 100
    missing = [name for name, found in (classes | members).items() if not inspect.getdoc(found)]
    assert not missing


def test_a_commit_is_checked_as_by_make_lint() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for command in makefile("lint"):
        assert f"entry: {command}" in hooks, f"{command} is not in .pre-commit-config.yaml"


def test_the_host_and_the_machine_run_the_same() -> None:
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    steps = (ROOT / ".ci" / "run").read_text()
    assert all(f"make {target}\n" in steps for target in ("test", "lint", "types"))


@pytest.mark.parametrize(
    ("message", "mistake"),
    [
        ("Refuse a name that is no text\n\nOne caller's fault was an outage for everybody.\n", ""),
        ("Merge branch 'main'\n", ""),
        ("Refuse a name\n\n# a comment of git\n", "no body"),
        ("Refuse a name.\n\nBecause.\n", "full stop"),
        (f"{'Refuse ' * 11}\n\nBecause.\n", "77 characters"),
        ("Refuse a name\nbecause\n", "second line"),
        (f"Refuse a name\n\n{'because ' * 12}\n", "wrap it at 80"),
        ("", "empty"),
    ],
)
def test_the_message_of_a_commit(message: str, mistake: str, tmp_path: Path) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)
    command = [sys.executable, ROOT / ".ci" / "commit_message.py", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, mistake in done.stdout) == (1 if mistake else 0, True), done.stdout


def test_no_file_and_no_function_grows_beyond_a_page() -> None:
    """A reader keeps 400 lines of a file in mind, and 40 of a function; what is longer has two subjects."""
    long = []
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                size = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if size > 40:
                    long.append(f"{path.name}: {node.name} has {size} lines")
    assert not long


def test_the_core_can_be_read_in_an_afternoon() -> None:
    """The engine, the contracts of stores and the values: what a maintainer reads before the rest."""
    values = ("channel_options", "channels", "errors", "limits", "messages", "retention")
    source = ROOT / "src" / "tidewire"
    files = [*(source / "engine").glob("*.py"), source / "backends" / "base.py", *(source / f"{n}.py" for n in values)]
    assert (
        sum(path.read_text().count("\n") for path in files) <= 4_200
    )  # some 3,500, and 700 for states, maps and what nobody keeps
