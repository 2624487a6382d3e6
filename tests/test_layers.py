"""Imports point down only, type-only ones included, and nobody uses a private name of what we stand on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "tidewire"
#: From below to above; modules between two bars do not import each other. `x.` is a whole package.
LAYERS = """
errors | messages statistics memory seldom | options control
protocols.base | protocols.jsontext | protocols.plain protocols.json | protocols.chat | payload | broker presence access
protocols.centrifuge protocols.centrifuge.codes protocols.centrifuge.override
protocols.centrifuge.messages | protocols.centrifuge.meta
protocols.centrifuge.schema | protocols.centrifuge.protobuf
protocols.centrifuge.fossil protocols.centrifuge.filters | protocols.centrifuge.encoding
batch history | links.base | subscription
links.asgi links.stream links.handshake links.perloop | links.wheel links.admission | links.acceptor
links.wire | links.reader | links.endpoint | links.uvicorn | links.http
connection | registry | underway
fanout maintenance | carrier membership recovery | subscribing
node | inflight | acceptance survey | dispatch endpoint | served | centrifuge.
rules. http_api.
backends.
fastapi | client. publisher | testing. | __init__ | pipelines.
server.
cli. | __main__
"""
RANKS = {
    name: rank for rank, names in enumerate(re.split(r"[|\n]", LAYERS.replace("control", "| control")))
    for name in names.split()
}  # fmt: skip
#: What backends know of the core: contracts and values; and what they share among themselves.
CONTRACTS = {"errors", "messages", "options", "broker", "presence"}
SHARED = {"backends.statements", "backends.outage", "backends.waiting", "backends.completeness"}
FOREIGN = re.compile(r"(fastapi|starlette|uvicorn|websockets|uvloop|httptools)\b.*(^|\.)_(?!_)")

FILES = {re.sub(r"(?<=.)\.__init__$", "", ".".join(path.relative_to(SOURCE).with_suffix("").parts)): path
         for path in SOURCE.rglob("*.py")}  # fmt: skip


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


def own(module: str) -> set[str]:
    """Return the modules of ours that a module imports."""
    names = (name.removeprefix("tidewire.") for name in imports(module) if name.startswith("tidewire."))
    return {next((m for m in (name, name.rpartition(".")[0]) if m in FILES), "__init__") for name in names}


def rank(module: str) -> tuple[int, str]:
    """Return the height of a module, and the package inside which it may import its equals."""
    if module in RANKS:
        return RANKS[module], module
    package = module.partition(".")[0] + "."
    assert package in RANKS, f"module {module!r} stands in no layer; name it in LAYERS"
    return RANKS[package], package


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in FILES
        if not module.endswith(("links", "protocols"))
        for imported in own(module)
        if rank(imported)[0] >= rank(module)[0] and rank(imported) != rank(module)
    ]
    assert not wrong


def test_backends_know_contracts_and_values_only() -> None:
    for module in FILES:
        if module.startswith("backends."):
            family = ".".join(module.split(".")[:2])
            assert {name for name in own(module) if not name.startswith(family)} <= CONTRACTS | SHARED, module


def test_no_private_names_of_what_we_stand_on() -> None:
    assert not [(module, name) for module in FILES for name in imports(module) if FOREIGN.match(name)]
