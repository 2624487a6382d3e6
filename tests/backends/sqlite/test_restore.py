"""A copy of the file from an earlier moment that is put back hands out no offset twice in one epoch."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from engine.support import run
from tidewire.backends.sqlite.folder import node_folder
from tidewire.messages import Position
from tidewire.retention import Retention
from tidewire.testing import wait_until

from .helpers import open_node

ALL = Retention(1_000, 1e9)


async def _publish(path: Path, count: int) -> Position:
    """Publish with a store that is opened for that; return the top."""
    async with open_node(path) as node:
        for number in range(count):
            await node.publish("a", b"%d" % number, retention=ALL)
        await node.publish("b", retention=ALL)
        return (await node.broker.history("a", limit=0)).top


def _files(path: Path) -> list[Path]:
    return [file for file in path.parent.glob(f"{path.name}*") if file.is_file()]


def _put_back(copy: Path, path: Path) -> None:
    for file in _files(path):
        file.unlink()
    for file in _files(copy / path.name):
        shutil.copy(file, path.parent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    """A copy of a database that has come further since."""
    copy = tmp_path / "copy"
    copy.mkdir()
    asyncio.run(_publish(path, 10))
    for file in _files(path):
        shutil.copy(file, copy)
    return copy


def test_an_older_copy_begins_a_new_epoch_in_every_channel_once(path: Path, copy: Path) -> None:
    async def scenario() -> None:
        before = await _publish(path, 5)
        assert before.offset == 15
        _put_back(copy, path)
        after = await _publish(path, 10)  # past where clients have come
        assert after.offset == 20
        assert after.epoch != before.epoch
        assert await _publish(path, 0) == after, "an epoch lasts"
        async with open_node(path) as node:
            page = await node.broker.history("a", since=before)
            assert not page.complete
            assert not page.publications
            kept = await node.broker.history("a", since=Position(0, after.epoch))
            assert len(kept.publications) == 20
            assert (await node.broker.history("b", limit=0)).top.epoch != (before.epoch, after.epoch)

    run(scenario())


def test_who_has_it_open_goes_on_in_the_new_epoch(path: Path, copy: Path) -> None:
    async def scenario() -> None:
        resumed = asyncio.Event()
        async with open_node(path, resumed=resumed.set) as node:
            before = await node.broker.subscribe("a")
            for _ in range(5):
                await node.publish("a", retention=ALL)
            _put_back(copy, path)
            await asyncio.wait_for(resumed.wait(), 10)
            after = await node.broker.subscribe("a")
            assert after.epoch != before.epoch
            assert await node.publish("a", b"new", retention=ALL) == 11
            await wait_until(lambda: node.delivered[-1].data == b"new")
            assert node.delivered[-1].epoch == after.epoch

    run(scenario())


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"\xff\xff", b"0" * 32 + b" 99999999999999999999\n"])
def test_what_it_remembers_of_another_database_or_of_none_changes_nothing(path: Path, copy: Path, said: bytes) -> None:
    before = asyncio.run(_publish(path, 1))
    (node_folder(path) / "rollback-guard").write_bytes(said)
    assert asyncio.run(_publish(path, 0)) == before
    os.unlink(node_folder(path) / "rollback-guard")
    assert asyncio.run(_publish(path, 0)) == before


def test_an_earlier_version_beside_this_one_reads_the_guard_too(path: Path, copy: Path) -> None:
    """It expects one seed and its id alone in the first 128 bytes."""
    asyncio.run(_publish(path, 5))
    first = (node_folder(path) / "rollback-guard").read_text().split()
    _put_back(copy, path)
    asyncio.run(_publish(path, 0))  # a new epoch: the seed before is remembered
    seed, last = (node_folder(path) / "rollback-guard").read_bytes()[:128].decode().split()
    assert seed != first[0]
    assert int(last) > int(first[1])
    assert (node_folder(path) / "rollback-guard").read_text().split()[2:] == first[:1]
