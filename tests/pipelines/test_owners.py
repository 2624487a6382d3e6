"""Who owns runs while a process has no descriptor left, and what is left of a folder that cannot be used."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.support import run
from pipelines.support import finished, opened, until
from tidewire import ConfigurationError, Hub
from tidewire.pipelines import Pipelines, RunStatus, Step
from tidewire.pipelines.owners import Owners
from tidewire.pipelines.run_keeper import Keeper


def test_whoever_cannot_be_looked_at_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        mine, other = Owners(tmp_path), Owners(tmp_path)
        mine.open(lambda: None)
        other.open(lambda: None)
        try:
            assert mine.known() == {mine.name, other.name}
            assert not mine.is_dead(other.name)
            with monkeypatch.context() as context:
                context.setattr(os, "open", _none_left)
                context.setattr(os, "listdir", _none_left)
                context.setattr(os, "scandir", _none_left)
                assert not mine.is_dead(other.name)
                assert mine.known() == set()
        finally:
            other.close()
            mine.close()
        assert mine.is_dead(other.name)

    run(main())


def test_nobody_else_says_who_lives_whatever_the_umask_is(tmp_path: Path) -> None:
    async def main() -> None:
        for existed in (False, True):
            folder = tmp_path / str(existed)
            if existed:
                folder.mkdir(mode=0o777)
            mine = Owners(folder)
            mine.open(lambda: None)
            assert folder.stat().st_mode & 0o777 == 0o700
            mine.close()

    before = os.umask(0)
    try:
        run(main())
    finally:
        os.umask(before)


def _none_left(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_runs_go_on_when_descriptors_are_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    original = os.open

    def opening(path: Any, *arguments: Any, **options: Any) -> int:
        nonlocal looked
        if str(path).endswith(".lock"):
            looked += 1
            _none_left()
        return original(path, *arguments, **options)

    async def main() -> None:
        other = Owners(tmp_path / "runs" / "owners")
        other.open(lambda: None)
        async with opened(tmp_path) as pipelines:
            with monkeypatch.context() as context:
                context.setattr(os, "open", opening)
                async with asyncio.timeout(10):
                    while not looked:
                        await asyncio.sleep(0.05)
            assert (await finished(pipelines, Step("one", ("true",)), seconds=10)).status is RunStatus.FINISHED
        other.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("_sweep", RuntimeError("unforeseen"), "looking at the runs failed; it is tried again"),
        ("_attend", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "cannot be started or ended now"),
    ],
)
def test_a_failure_while_runs_are_looked_after_ends_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    error: Exception,
    said: str,
) -> None:
    failures = 0
    original = getattr(Keeper, name)

    async def failing(self: Keeper, *arguments: Any) -> None:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise error
        await original(self, *arguments)

    async def main() -> None:
        async with opened(tmp_path) as pipelines:
            monkeypatch.setattr(Keeper, name, failing)
            assert (await finished(pipelines, Step("one", ("true",)), seconds=30)).status is RunStatus.FINISHED
            await until(lambda: failures == 2, what="it has failed twice")
            assert (await finished(pipelines, Step("two", ("true",)), sample="S2")).status is RunStatus.FINISHED

    asyncio.run(main())
    assert caplog.text.count(said) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_folder_that_cannot_be_used_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "owners").write_text("in the way")

    async def main() -> None:
        async with Hub("memory://") as hub:
            before = set(os.listdir("/proc/self/fd"))
            for _ in range(2):
                with pytest.raises(ConfigurationError, match="cannot be used for runs"):
                    async with Pipelines(hub, tmp_path):
                        pass
            assert set(os.listdir("/proc/self/fd")) == before
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("tidewire-runs")]

    run(main())
