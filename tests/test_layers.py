"""Imports point down only, type-only ones included, in no circle; nobody uses a private name of what we stand on."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "tidewire"
#: From below to above; rooms between two bars do not import each other.
ROOMS = (
    "support errors retention | limits messages channels | channel_options backends | protocols"
    " | links rules history client | engine asyncapi | sessions events | observe | http_api publisher | hub"
    " | testing tokens pipelines | __init__ server | cli | __main__"
)
RANKS = {room: rank for rank, rooms in enumerate(ROOMS.split("|")) for room in rooms.split()}
#: What a store may know beside its own folder: the contracts, what stores share, values, and things of the loop.
OF_STORES = (
    "backends.base",
    "backends.shared",
    "channel_options",
    "channels",
    "errors",
    "limits",
    "messages",
    "retention",
    "support",
)
FOREIGN = re.compile(r"(fastapi|starlette|uvicorn|websockets|uvloop|httptools)\b.*(^|\.)_(?!_)")

FILES = {re.sub(r"(?<=.)\.__init__$", "", ".".join(path.relative_to(SOURCE).with_suffix("").parts)): path
         for path in SOURCE.rglob("*.py")}  # fmt: skip


@cache
def imports(module: str) -> list[str]:
    """Return what a module imports, with dots."""
    found: list[str] = []
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@cache
def own(module: str) -> frozenset[str]:
    """Return the modules of ours that a module imports."""
    names = (name.removeprefix("tidewire.") for name in imports(module) if name.startswith("tidewire."))
    return frozenset(next((m for m in (name, name.rpartition(".")[0]) if m in FILES), "__init__") for name in names)


def room(module: str) -> str:
    """Return the folder at the top, or the module at the top, that a module belongs to."""
    return module.partition(".")[0]


def test_imports_between_rooms_point_down() -> None:
    assert max(RANKS.values()) < 14
    wrong = [
        f"{module} imports {imported}"
        for module in FILES
        for imported in own(module)
        if room(imported) != room(module) and RANKS[room(imported)] >= RANKS[room(module)]
    ]
    assert not wrong


def test_no_module_imports_itself_around_a_corner() -> None:
    above: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        assert module not in above, f"a circle: {' imports '.join([*above[above.index(module) :], module])}"
        if module not in done:
            above.append(module)
            for imported in own(module) - {module}:
                visit(imported)
            done.add(above.pop())

    for module in FILES:
        visit(module)


def test_a_store_knows_contracts_and_values_only() -> None:
    for module in FILES:
        parts = module.split(".")
        if parts[0] == "backends" and len(parts) > 1:
            allowed = (*OF_STORES, ".".join(parts[:2]))
            assert not [name for name in own(module) if not name.startswith(allowed)], module


def test_the_top_holds_values_and_faces_only() -> None:
    assert len([module for module in FILES if "." not in module and FILES[module].parent == SOURCE]) <= 9


def test_a_name_that_is_used_twice_means_the_same() -> None:
    names = Counter(path.stem for path in FILES.values() if path.stem not in ("__init__", "__main__"))
    twice = {name for name, count in names.items() if count > 1}
    assert len(twice) <= 15, sorted(twice)


def test_no_private_names_of_what_we_stand_on() -> None:
    assert not [(module, name) for module in FILES for name in imports(module) if FOREIGN.match(name)]
