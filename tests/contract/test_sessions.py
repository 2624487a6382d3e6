"""An account is one person's: its sessions can be ended, and nobody is given what belonged to an earlier namesake."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from .chatting import Chat
from .conftest import StartServer
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-sessions")

GOOD = "a good password"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def log_in(server: Server, name: str, password: str = GOOD) -> str:
    answer = server.http.post("/login", json={"username": name, "password": password})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["token"]
    return token


def is_good(server: Server, token: str) -> bool:
    return server.http.get("/me", headers=bearer(token)).status_code == 200


@pytest.fixture(params=["memory", "two workers"])
def one_server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    options: dict[str, Any] = {"broker": "sqlite:///tidewire.db", "workers": 2} if request.param != "memory" else {}
    return start_server(**options)


def test_logging_out_ends_the_session_here_or_everywhere(one_server: Server) -> None:
    name, first = one_server.sign_up(password=GOOD)
    second, third = log_in(one_server, name), log_in(one_server, name)
    listed = one_server.http.get("/sessions", headers=bearer(second)).json()["sessions"]
    assert [session["current"] for session in listed] == [False, True, False]

    async def scenario() -> None:
        async with Chat(one_server, first) as here, Chat(one_server, second) as there, Chat(one_server, third) as last:
            for chat in (here, there, last):
                await chat.joined()
            begin = time.monotonic()
            assert one_server.http.post("/logout", headers=bearer(first)).status_code == 200
            assert (await here.closed(20))[0] == 1008
            assert time.monotonic() - begin < 20  # a second, and the slowness of a busy machine
            assert not is_good(one_server, first)
            await there.settle()
            assert one_server.http.post("/logout/everywhere", headers=bearer(second)).json() == {"ended": 2}
            for chat in (there, last):
                assert (await chat.closed(5))[0] == 1008

    asyncio.run(scenario())
    assert not is_good(one_server, second)
    assert not is_good(one_server, third)
    assert is_good(one_server, log_in(one_server, name))


def test_accounts_that_were_removed_end_their_sessions(start_server: StartServer) -> None:
    """Nobody is acknowledged who is not in the file, and a namesake gets nothing of who was there before."""
    server = start_server(broker="memory://")
    path = server.folder / "tidewire.db"
    name, token = server.sign_up(password=GOOD)

    async def scenario() -> None:
        async with Chat(server, token) as chat:
            await chat.joined()
            path.unlink()
            assert (await chat.closed(10))[0] == 1008

    asyncio.run(scenario())
    assert not is_good(server, token)
    server.sign_up(name, GOOD)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM accounts_users").fetchall() == [(name,)]


def test_the_end_of_all_sessions_as_a_worker_of_an_earlier_version_says_it(one_server: Server) -> None:
    """In a rolling update; it says "all" in one row, and removes them."""
    (gone, hers), (_, his) = one_server.sign_up(password=GOOD), one_server.sign_up(password=GOOD)

    async def scenario() -> None:
        async with Chat(one_server, hers) as chat, Chat(one_server, his) as other:
            for one in (chat, other):
                await one.joined()
            with closing(sqlite3.connect(accounts(one_server), timeout=20)) as database, database:
                database.execute("DELETE FROM accounts_sessions WHERE user = ?", (gone,))
                insert = "INSERT INTO accounts_ended (user, session, ended) VALUES (?, '', ?)"
                database.execute(insert, (gone, time.time()))
            assert (await chat.closed(10))[0] == 1008
            await other.settle()

    asyncio.run(scenario())


def test_another_password_ends_the_other_sessions(one_server: Server) -> None:
    name, first = one_server.sign_up(password=GOOD)
    second = log_in(one_server, name)

    def change(password: str, new: str) -> httpx.Response:
        body = {"password": password, "new_password": new}
        return one_server.http.post("/password", json=body, headers=bearer(first))

    assert change("a wrong one", "a new password").status_code == 403
    assert change(GOOD, "short").status_code == 422
    assert is_good(one_server, second)
    answer = change(GOOD, "a new password")
    assert (answer.status_code, answer.json()) == (200, {"ended": 1})
    assert is_good(one_server, first)
    assert not is_good(one_server, second)
    assert one_server.http.post("/login", json={"username": name, "password": GOOD}).status_code == 401
    log_in(one_server, name, "a new password")


def test_the_operator_ends_all_sessions_of_a_user_also_for_the_next_start(one_server: Server) -> None:
    name, token = one_server.sign_up(password=GOOD)

    async def scenario() -> None:
        async with Chat(one_server, token) as chat:
            await chat.joined()
            done = await asyncio.to_thread(
                one_server.tidewire, "user", "revoke", name, "--accounts", accounts(one_server)
            )
            assert (done.returncode, done.stdout) == (0, f"ended 1 session of {name}\n")
            assert (await chat.closed(5))[0] == 1008

    asyncio.run(scenario())
    one_server.stop()
    one_server.start()
    assert not is_good(one_server, token)
    assert is_good(one_server, log_in(one_server, name))


def accounts(server: Server) -> str:
    return str(Path(server.folder) / "tidewire.db")


def test_the_next_user_of_a_name_reads_nothing_of_the_one_before(start_server: StartServer) -> None:
    server = start_server(broker="sqlite:///tidewire.db")
    _, old = server.sign_up("ann", GOOD)
    _, ben = server.sign_up("ben", GOOD)

    async def say_something_private() -> None:
        async with Chat(server, old) as ann, Chat(server, ben) as friend:
            await ann.joined()
            await friend.joined()
            await friend.send("private_chat", target_user="ann", message="for the first ann alone")
            await ann.expect("private_chat_message")
            removed = await asyncio.to_thread(server.tidewire, "user", "remove", "ann")
            assert removed.stdout.splitlines()[0] == "removed ann"
            assert "private messages: removed" in removed.stdout
            assert (await ann.closed(5))[0] == 1008

    async def read_as_the_next() -> None:
        async with Chat(server, new, inbox="") as ann, Chat(server, ben) as friend:
            assert (await ann.expect("inbox"))["messages"] == []
            await friend.joined()
            await friend.send("private_chat", target_user="ann", message="for the second")
            message = await ann.expect("private_chat_message")
            assert (message["sender"], message["target"], message["content"]) == ("ben", "ann", "for the second")
            assert await friend.who() == ["ann", "ben"]

    asyncio.run(say_something_private())
    _, new = server.sign_up("ann", GOOD)
    assert not is_good(server, old)
    asyncio.run(read_as_the_next())


def test_a_known_device_gets_in_while_its_network_is_shut(start_server: StartServer) -> None:
    server = start_server()
    away = {"X-Forwarded-For": "192.0.2.1"}  # the test's own address is a trusted proxy's
    body, wrong = {"username": "ann", "password": GOOD}, {"username": "ann", "password": "a wrong guess"}
    server.sign_up("ann", GOOD)
    with httpx.Client(base_url=str(server.http.base_url)) as known, httpx.Client(base_url=known.base_url) as stranger:
        assert known.post("/login", json=body, headers=away).status_code == 200
        said = [stranger.post("/login", json=wrong, headers=away).status_code for _ in range(12)]
        assert said == [401] * 10 + [429] * 2
        assert stranger.post("/login", json=body, headers=away).status_code == 429
        assert known.post("/login", json=body, headers=away).status_code == 200
        assert stranger.post("/login", json=body, headers={"X-Forwarded-For": "192.0.2.2"}).status_code == 200
