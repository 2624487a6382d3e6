"""Downloads of results that a program changes meanwhile: never another file, never more or less than announced."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pipelines.support import finished, opened, program
from tidewire.pipelines import NotFound, Step, router
from tidewire.pipelines.result_response import ResultResponse, open_inside

MAKE = 'import os, sys\nos.mkdir(sys.argv[1] + "/in")\nopen(sys.argv[1] + "/in/a.txt", "w").write("good")\n'


def lead_outside(file: Path, secret: Path) -> None:
    file.unlink()
    file.symlink_to(secret)


def lead_the_folder_outside(file: Path, secret: Path) -> None:
    file.unlink()
    file.parent.rmdir()
    file.parent.symlink_to(secret.parent)


def make_a_pipe(file: Path, secret: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def remove(file: Path, secret: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("swap", [lead_outside, lead_the_folder_outside, make_a_pipe, remove])
def test_what_takes_the_place_of_a_result_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path, Path], None]
) -> None:
    secret = tmp_path / "secret" / "a.txt"
    secret.parent.mkdir()
    secret.write_text("secret")

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(MAKE, "{results}")))
            app = FastAPI()
            app.include_router(router(pipelines))
            found = type(pipelines).result

            async def result(self: Any, run: str, name: str) -> Path:
                path = await found(self, run, name)
                if is_swapping:
                    swap(path, secret)
                return path

            is_swapping = False
            monkeypatch.setattr(type(pipelines), "result", result)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
                path = f"/runs/{run.id}/results/in/a.txt"
                assert (await http.get(path)).text == "good"
                assert (await http.get(path, headers={"Range": "bytes=1-2"})).text == "oo"
                head = await http.head(path)
                assert (head.headers["content-length"], head.headers["content-type"][:10]) == ("4", "text/plain")
                is_swapping = True
                async with asyncio.timeout(10):
                    answer = await http.get(path)
                assert (answer.status_code, "ask for it again" in answer.text or "no file" in answer.text) == (
                    404,
                    True,
                )

    asyncio.run(scenario())


async def let() -> None:
    """Let the reader have more."""


async def sent(file: Path, *, headers: tuple[tuple[bytes, bytes], ...] = (), change: Callable[[], object]) -> list[Any]:
    """Open a file, change it, and return the messages of the answer."""
    descriptor = open_inside(file, file.parent)
    response = ResultResponse(descriptor, file.name, {}, filename=None, look=let, seconds=1.0)
    change()
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    await response({"type": "http", "method": "GET", "headers": headers}, receive, send)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    return messages


@pytest.mark.parametrize("span", ["", "bytes=1-", "bytes=0-1,90000-"])
def test_a_file_that_grows_is_sent_as_it_was(tmp_path: Path, span: str) -> None:
    file = tmp_path / "log.txt"
    file.write_bytes(b"a" * 100_000)

    def grow() -> None:
        with file.open("ab") as more:
            more.write(b"Z" * 100_000)

    headers = ((b"range", span.encode()),) if span else ()
    start, *bodies = asyncio.run(sent(file, headers=headers, change=grow))
    data = b"".join(body["body"] for body in bodies)
    assert len(data) == int(dict(start["headers"])[b"content-length"])
    assert bodies[-1]["more_body"] is False
    assert b"Z" not in data


@pytest.mark.parametrize("span", ["", "bytes=1-", "bytes=0-1,90000-"])
def test_the_answer_breaks_off_where_a_file_has_become_shorter(tmp_path: Path, span: str) -> None:
    file = tmp_path / "table.tsv"
    file.write_bytes(b"a" * 100_000)
    headers = ((b"range", span.encode()),) if span else ()
    start, *bodies = asyncio.run(sent(file, headers=headers, change=lambda: os.truncate(file, 10)))
    assert sum(len(body["body"]) for body in bodies) < int(dict(start["headers"])[b"content-length"])
    assert all(body["more_body"] for body in bodies)


def test_a_file_that_is_replaced_is_sent_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")

    def replace() -> None:
        (tmp_path / "new").write_text("another")
        (tmp_path / "new").replace(file)

    _, *bodies = asyncio.run(sent(file, change=replace))
    assert b"".join(body["body"] for body in bodies) == b"old"


def test_links_within_the_folder_of_the_run_are_followed(tmp_path: Path) -> None:
    (tmp_path / "run" / "inputs").mkdir(parents=True)
    (tmp_path / "run" / "inputs" / "reads").write_text("ACGT")
    (tmp_path / "run" / "link").symlink_to("inputs/reads")
    descriptor = open_inside(tmp_path / "run" / "link", tmp_path / "run")
    assert os.read(descriptor, 10) == b"ACGT"
    os.close(descriptor)
    with pytest.raises(NotFound, match="ask for it again"):
        open_inside(tmp_path / "run" / "link", tmp_path / "run" / "results")
