from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.server.live_server import LiveServer, tidewire

from tidewire.server.logs import Clean, harmless, without_secrets

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmVk"


def cleaned(message: str, *args: object) -> str:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, args, None)
    assert Clean().filter(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        ("GET /ws?token=abc.def&x=1", "GET /ws?token=***&x=1"),
        ("GET /ws?x=1&access_token=abc", "GET /ws?x=1&access_token=***"),
        ("GET /x?ticket=abc&x=1", "GET /x?ticket=***&x=1"),
        (f"GET /{JWT}/x", "GET /***/x"),
        (f"GET /%22{JWT}%22", "GET /%22***%22"),
        ("100 % sure", "100 % sure"),
        ("room a\nINFO forged", "room a\\nINFO forged"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("grüße 🌊", "grüße 🌊"),
    ],
)
def test_messages_are_cleaned(given: str, logged: str) -> None:
    assert cleaned(given) == logged


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("token=abc&x=1&TICKET=abc", "token=***&x=1&TICKET=***"),
        ("t%6Fken=abc&x=1", "t%6Fken=***&x=1"),
        (f'cf_connect={{"token":"{JWT}"}}&x=1', "cf_connect=***&x=1"),
        (f"next=%2Fx%3Ftoken%3D{JWT}", "next=%2Fx%3Ftoken%3D***"),
        (f"a;token={JWT}", "a;token=***"),
        ("next=/x?token=abc", "next=/x?token=***"),
        ("room=lobby&", "room=lobby&"),
    ],
)
def test_a_query_has_no_secret_however_it_is_written(given: str, shown: str) -> None:
    assert without_secrets(given) == shown


@pytest.mark.parametrize("part", ["eyJ", "eyJaaaaaaaa-", "eyJaaaaaaaaaa.bbb ", "aaaaaaaaaaaa."])
def test_a_long_line_of_a_stranger_takes_no_longer_for_its_square(part: str) -> None:
    def seconds(times: int) -> float:
        begun = time.process_time()
        without_secrets(part * times)
        return time.process_time() - begun

    assert min(seconds(16_000) for _ in range(3)) < 60 * min(seconds(1_000) for _ in range(3)) + 0.05


def test_arguments_are_part_of_what_is_cleaned() -> None:
    assert cleaned("%s says %d", "a\nb", 7) == "a\\nb says 7"


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\rb", "\u202ereversed", "\x9b31m", "\u2028"])
def test_what_moves_a_terminal_is_escaped(text: str) -> None:
    assert harmless(text).isprintable()
    assert "\\" in harmless(text)


def test_a_traceback_shows_no_token_and_forges_no_line() -> None:
    code = r"""
import logging
from tidewire.server import logs
logs.configure("info")
try:
    int("0?token=abc.def&x\x1b[31m")
except ValueError as error:
    try:
        raise ValueError(f"{error}\n2026-01-01 INFO forged") from error
    except ValueError:
        logging.getLogger("tidewire").exception("failed")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    first, *others = ended.stderr.splitlines()
    assert first.endswith("tidewire: failed")
    assert "  2026-01-01 INFO forged" in others
    assert all(line.startswith("  ") and line.isprintable() for line in others if line)
    assert "abc.def" not in ended.stderr


FAILING = r"""
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    raise ValueError("no \x1b[31m way\n2026-01-01 INFO forged")
    yield

app = FastAPI(lifespan=lifespan)
"""


def test_a_start_that_fails_shows_its_traceback_in_lines(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    ended = tidewire("run", "failing:app", "--port", "0", folder=tmp_path)
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert any(line.endswith("Traceback (most recent call last):") for line in lines)
    assert '    raise ValueError("no \\x1b[31m way\\n2026-01-01 INFO forged")' in [line[2:] for line in lines]
    assert "  2026-01-01 INFO forged" in lines
    assert "\x1b" not in ended.stderr


def test_json_has_one_object_a_line_for_a_start_a_traceback_and_a_stop(tmp_path: Path) -> None:
    code = "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/')\ndef fail(): raise ValueError('a\\nb')\n"
    (tmp_path / "failing.py").write_text(code)
    with LiveServer(tmp_path, "failing:app", "--log-format", "json", command=("run",)) as server:
        assert server.get("/").status_code == 500
        assert server.stop(20) == 0
    records = [json.loads(line) for line in server.err.splitlines()]
    messages = [record["message"] for record in records]
    assert messages == [
        "serving failing:app",
        "Exception in ASGI application",
        "stopping: its connections end within 5 s",
        "stopped",
    ]
    assert records[1]["exception"].endswith("ValueError: a\n  b")
    assert {(record["process"], record["logger"]) for record in records} == {
        (server.process.pid, "tidewire"),
        (server.process.pid, "uvicorn.error"),
    }
    assert [record["level"] for record in records] == ["info", "error", "info", "info"]
    assert all(record["time"].endswith("Z") for record in records)


def test_requests_that_are_no_http_do_not_fill_the_log(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for request in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n") * 20:
            with socket.create_connection(address, timeout=20) as client:
                client.sendall(request)
                assert client.recv(4_096).startswith(b"HTTP/1.1 ")
    assert server.err.count("Invalid HTTP request received.") == 1


def test_a_stop_that_cancels_nothing_is_no_error(tmp_path: Path) -> None:
    code = (
        "import logging, tidewire.server.logs as logs; logs.configure('info'); "
        "log = logging.getLogger('uvicorn.error'); words = 'Cancel %s running task(s), timeout exceeded'; "
        "log.error(words, 0); log.error(words, 2)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.partition("Cancel ")[2][:1] for line in ended.stderr.splitlines()] == ["2"]
