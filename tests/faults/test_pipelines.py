"""The disk of the pipelines' folder is full, or turns read-only: runs fail with words, and the chat goes on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from contract.chatting import Chat
from contract.serving import Server, until

from .disks import ext4_disk, small_disk
from .serving import serving

_RUNS = "/api/pipelines/runs"
_PROGRAM = json.dumps([sys.executable, "-I", "-S", "-c", "print('done')"])
_DEFINITION = f"[[steps]]\nname = 'only'\nrun = {_PROGRAM}\n"


@contextmanager
def with_runs_on(disk: Path, folder: Path) -> Iterator[Server]:
    """Run a server that has its runs on another disk than everything else."""
    definitions = folder / "definitions"
    definitions.mkdir(parents=True)
    (definitions / "quick.toml").write_text(_DEFINITION)
    environment = {"TIDEWIRE_PIPELINES__FOLDER": str(definitions), "TIDEWIRE_PIPELINES__RUNS": str(disk / "runs")}
    with serving(folder, f"sqlite:///{folder}/faults.db", workers=1, environment=environment) as server:
        yield server


def start(server: Server, sample: str) -> tuple[int, dict[str, Any]]:
    """Ask for a run; returns the status and what is told."""
    answer = server.http.post(_RUNS, json={"pipeline": "quick", "sample": sample})
    return answer.status_code, answer.json()


def ends(server: Server, run: str) -> str:
    """Wait for the end of a run, and return how it ended."""

    def status() -> str:
        found = str(server.http.get(f"{_RUNS}/{run}").json()["run"]["status"])
        return found if found in ("finished", "failed", "interrupted") else ""

    return until(status, 20, what=f"the end of run {run}")


def chat_goes_on(server: Server) -> None:
    """Say something, and hear it."""
    _, token = server.sign_up()

    async def talk() -> None:
        async with Chat(server, token, room="beside") as chat:
            await chat.joined()
            await chat.say("still here")
            await chat.expect("chat_message", content="still here")

    asyncio.run(talk())


def test_a_full_disk_is_told_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk, with_runs_on(disk, tmp_path / "run") as server:
        # The log could begin anew in the place that it has, were there no reader of what was before a run.
        reader = sqlite3.connect(next(disk.glob("runs/*.db")))
        reader.execute("BEGIN").execute("SELECT count(*) FROM sqlite_master").fetchone()
        assert ends(server, start(server, "S1")[1]["run"]["id"]) == "finished"
        filler = disk / "filler"

        def is_refused() -> bool:
            with filler.open("ab", buffering=0) as file, suppress(OSError):
                while file.write(b"x" * 4_096):
                    pass
            return start(server, "S2")[0] == 503

        until(is_refused, 60, what="a run is refused, once all that is left is used up")
        chat_goes_on(server)
        reader.close()
        filler.unlink()
        assert ends(server, start(server, "S3")[1]["run"]["id"]) == "finished"


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    with ext4_disk(tmp_path) as disk, with_runs_on(disk.folder, tmp_path / "run") as server:
        assert ends(server, start(server, "S1")[1]["run"]["id"]) == "finished"
        disk.break_()
        status, told = start(server, "S2")
        assert status == 503, told
        chat_goes_on(server)
        assert server.http.get(_RUNS).status_code == 200, "what is known can be read"
