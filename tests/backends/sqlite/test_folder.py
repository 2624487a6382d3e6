"""Who may read the files of a store."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tidewire import Hub
from tidewire.messages import Member


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*")}


async def use(path: Path) -> dict[str, int]:
    async with Hub(f"sqlite:///{path}") as hub:
        await hub.publish("a", "secret")
        await hub.node.memberships.enter("a", Member("1", "ann"))
        await hub.users("a")
        return modes(path.parent)


@pytest.fixture(autouse=True)
def umask() -> None:
    os.umask(0o022)


def test_the_files_of_a_new_store_are_their_owners_alone(tmp_path: Path) -> None:
    found = asyncio.run(use(tmp_path / "chat.db"))
    assert {name.removeprefix("chat.db") for name in found} == {
        "", "-wal", "-shm", "-presence", "-presence-wal", "-presence-shm", "-nodes"
    }  # fmt: skip
    assert {mode for name, mode in found.items() if name != "chat.db-nodes"} == {0o600}
    assert found["chat.db-nodes"] == 0o700


@pytest.mark.parametrize(("mode", "folder"), [(0o600, 0o700), (0o660, 0o770), (0o640, 0o750)])
def test_what_is_beside_a_database_has_its_permissions(tmp_path: Path, mode: int, folder: int) -> None:
    path = tmp_path / "chat.db"
    for name in ("chat.db", "chat.db-presence"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    (tmp_path / "chat.db-nodes").mkdir(mode=0o755)
    path.chmod(mode)
    found = asyncio.run(use(path))
    assert {mode for name, mode in found.items() if name != "chat.db-nodes"} == {mode}
    assert found["chat.db-nodes"] == folder
