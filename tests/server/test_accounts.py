from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tidewire.errors import ConfigurationError, LimitExceeded, StoreUnavailable
from tidewire.server import accounts as module
from tidewire.server.accounts import (
    Accounts,
    BadName,
    InvalidCredentials,
    NameTaken,
    TooManyLogins,
    WeakPassword,
)

GOOD = "correct horse"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def with_accounts(path: Path, test: Callable[[Accounts], Awaitable[None]], clock: Clock | None = None) -> None:
    async def run() -> None:
        accounts = Accounts(path, clock=clock or Clock())
        await accounts.open()
        try:
            await test(accounts)
        finally:
            await accounts.aclose()

    asyncio.run(run())


def test_who_was_added_may_log_in_also_after_a_restart(tmp_path: Path) -> None:
    async def first(accounts: Accounts) -> None:
        assert (await accounts.add_user("Ann", GOOD)).name == "Ann"

    async def second(accounts: Accounts) -> None:
        assert (await accounts.login("ann", GOOD)).name == "Ann"
        assert [user.name for user in await accounts.users()] == ["Ann"]

    with_accounts(tmp_path / "a.db", first)
    with_accounts(tmp_path / "a.db", second)


def test_a_wrong_password_and_an_unknown_user_are_told_the_same(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.add_user("ann", GOOD)
        said = []
        for name in ("ann", "nobody"):
            with pytest.raises(InvalidCredentials) as caught:
                await accounts.login(name, "wrong horse")
            said.append(str(caught.value))
        assert said[0] == said[1]

    with_accounts(tmp_path / "a.db", test)


def test_a_password_is_verified_against_a_hash_of_the_same_cost_also_for_an_unknown_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    verify = module.verify_password

    def watched(password: str, expected: str) -> bool:
        verified.append(expected)
        return verify(password, expected)

    async def test(accounts: Accounts) -> None:
        await accounts.add_user("ann", GOOD)
        monkeypatch.setattr(module, "verify_password", watched)
        for name in ("ann", "nobody"):
            with pytest.raises(InvalidCredentials):
                await accounts.login(name, "wrong horse")

    with_accounts(tmp_path / "a.db", test)
    costs = [expected.split("$")[1:4] for expected in verified]
    assert len(costs) == 2
    assert costs[0] == costs[1] == ["argon2id", "v=19", "m=19456,t=2,p=1"]


@pytest.mark.parametrize("again", ["Ann", "ann", "ANN"])
def test_a_name_is_taken_in_whichever_case(tmp_path: Path, again: str) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.add_user("Ann", GOOD)
        with pytest.raises(NameTaken, match="is taken"):
            await accounts.add_user(again, GOOD)

    with_accounts(tmp_path / "a.db", test)


def test_letters_beyond_ascii_fold_too(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.add_user("JOSÉ", GOOD)
        for same in ("josé", "jose\u0301", "ｊｏｓé"):
            with pytest.raises(NameTaken):
                await accounts.add_user(same, GOOD)

    with_accounts(tmp_path / "a.db", test)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 33, "a\n", "<b>", "a\x00", "/pm"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    async def test(accounts: Accounts) -> None:
        with pytest.raises(BadName):
            await accounts.add_user(name, GOOD)

    with_accounts(tmp_path / "a.db", test)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1_025])
def test_passwords_that_are_none_are_not_shown(tmp_path: Path, password: str) -> None:
    async def test(accounts: Accounts) -> None:
        with pytest.raises(WeakPassword) as caught:
            await accounts.add_user("ann", password)
        assert not password or password not in str(caught.value)

    with_accounts(tmp_path / "a.db", test)


def test_ten_failures_in_a_minute_shut_the_name_for_the_rest_of_it(tmp_path: Path) -> None:
    clock = Clock()

    async def test(accounts: Accounts) -> None:
        await accounts.add_user("ann", GOOD)
        for _ in range(10):
            with pytest.raises(InvalidCredentials):
                await accounts.login("ann", "wrong horse")
        with pytest.raises(TooManyLogins) as caught:
            await accounts.login("ANN", GOOD)
        assert caught.value.retry_after == 60
        clock.now = 60
        assert (await accounts.login("ann", GOOD)).name == "ann"

    with_accounts(tmp_path / "a.db", test, clock)


def test_an_address_is_shut_whatever_names_it_tries(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.add_user("ann", GOOD)
        for number in range(10):
            with pytest.raises(InvalidCredentials):
                await accounts.login(f"user{number}", "wrong horse", address="192.0.2.1")
        with pytest.raises(TooManyLogins):
            await accounts.login("ann", GOOD, address="192.0.2.1")
        assert await accounts.login("ann", GOOD, address="192.0.2.2")

    with_accounts(tmp_path / "a.db", test)


def test_guesses_made_all_at_once_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    def refuse(password: str, expected: str) -> bool:
        verified.append(password)
        return False

    async def test(accounts: Accounts) -> None:
        await accounts.add_user("ann", GOOD)
        monkeypatch.setattr(module, "verify_password", refuse)
        guesses = [accounts.login("ann", f"guess {number}") for number in range(100)]
        outcomes = await asyncio.gather(*guesses, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {InvalidCredentials, TooManyLogins}

    with_accounts(tmp_path / "a.db", test)
    # Two are under way when the tenth fails.
    assert 10 <= len(verified) <= 12


def test_at_most_two_hashes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most = threading.Lock(), 0, 0
    third = threading.Event()

    def watched(password: str, expected: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running > 2:
                third.set()
        third.wait(0.2)
        with lock:
            running -= 1
        return False

    async def test(accounts: Accounts) -> None:
        monkeypatch.setattr(module, "verify_password", watched)
        await asyncio.gather(*[accounts.login(f"u{n}", GOOD) for n in range(8)], return_exceptions=True)

    with_accounts(tmp_path / "a.db", test)
    assert most == 2


def test_more_new_users_than_may_wait_are_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 4)

    async def test(accounts: Accounts) -> None:
        signups = [accounts.add_user(f"u{number}", GOOD) for number in range(10)]
        outcomes = await asyncio.gather(*signups, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(TooManyLogins) == 6
        assert len(await accounts.users()) == 4

    with_accounts(tmp_path / "a.db", test)


def test_more_logins_than_may_wait_are_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 4)

    async def test(accounts: Accounts) -> None:
        logins = [accounts.login(f"u{number}", GOOD) for number in range(10)]
        outcomes = await asyncio.gather(*logins, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [InvalidCredentials] * 4 + [TooManyLogins] * 6
        with pytest.raises(InvalidCredentials):
            await accounts.login("u0", GOOD)

    with_accounts(tmp_path / "a.db", test)


def test_the_loop_goes_on_while_passwords_are_hashed(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        logins = asyncio.gather(*[accounts.login(f"u{n}", GOOD) for n in range(20)], return_exceptions=True)
        turns = 0
        while not logins.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100

    with_accounts(tmp_path / "a.db", test)


def test_removing_a_user(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.add_user("Ann", GOOD)
        assert await accounts.remove_user("ann")
        assert not await accounts.remove_user("ann")
        assert await accounts.find("ann") is None
        with pytest.raises(InvalidCredentials):
            await accounts.login("ann", GOOD)
        await accounts.add_user("ann", "another horse")

    with_accounts(tmp_path / "a.db", test)


def test_rooms_are_remembered_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def first(accounts: Accounts) -> None:
        assert await accounts.add_room("tea")
        assert await accounts.add_room("coffee")
        assert not await accounts.add_room("tea")

    async def second(accounts: Accounts) -> None:
        assert await accounts.rooms() == ["tea", "coffee"]
        monkeypatch.setattr(module, "_ROOMS", 2)
        assert not await accounts.add_room("tea")
        with pytest.raises(LimitExceeded, match="join another"):
            await accounts.add_room("milk")

    with_accounts(tmp_path / "a.db", first)
    with_accounts(tmp_path / "a.db", second)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        pass

    with_accounts(tmp_path / "a.db", test)
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600


def test_a_file_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to look like one" * 100)

    async def test(accounts: Accounts) -> None:
        pass

    for path in (tmp_path / "missing" / "a.db", tmp_path / "text"):
        with pytest.raises(ConfigurationError, match="name another file with --accounts"):
            with_accounts(path, test)


def test_a_store_that_is_locked_by_somebody_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.1)

    async def test(accounts: Accounts) -> None:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await accounts.add_room("tea")
        other.execute("ROLLBACK")
        other.close()
        assert await accounts.add_room("tea")

    with_accounts(tmp_path / "a.db", test)


_ADD = """
import asyncio, sys
from pathlib import Path
from tidewire.server.accounts import Accounts, NameTaken

async def main():
    accounts = Accounts(Path(sys.argv[1]))
    await accounts.open()
    added = 0
    for number in range(10):
        await accounts.add_room(f"room{number}")
        try:
            await accounts.add_user(f"user{number}", "correct horse")
            added += 1
        except NameTaken:
            pass
    await accounts.aclose()
    print(added)

asyncio.run(main())
"""


def test_processes_that_start_at_once_share_a_new_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ADD, str(tmp_path / "a.db")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    added = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(added) == 10

    async def test(accounts: Accounts) -> None:
        assert len(await accounts.users()) == 10
        assert len(await accounts.rooms()) == 10

    with_accounts(tmp_path / "a.db", test)
