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
from tidewire.limits import Limits
from tidewire.server import accounts_database as database
from tidewire.server import passwords as module
from tidewire.server.accounts import (
    Accounts,
    BadName,
    NameTaken,
    display_name,
)
from tidewire.server.login_attempts import TooManyAttempts
from tidewire.server.login_sessions import InvalidCredentials
from tidewire.server.passwords import FairTurns, Passwords, WeakPassword

GOOD = "correct horse"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def with_accounts(
    path: Path,
    test: Callable[[Accounts], Awaitable[None]],
    clock: Clock | None = None,
    *,
    apart: bool | None = None,
    **limits: float,
) -> None:
    async def run() -> None:
        accounts = Accounts(path, limits=Limits(**limits), clock=clock or Clock(), apart=apart)  # type: ignore[arg-type]
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
        assert (await accounts.login("ann", GOOD))[0].name == "Ann"
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
        with pytest.raises(TooManyAttempts) as caught:
            await accounts.login("ANN", GOOD)
        assert caught.value.retry_after == 60
        clock.now += 60
        assert (await accounts.login("ann", GOOD))[0].name == "ann"

    with_accounts(tmp_path / "a.db", test, clock)


def test_a_network_is_shut_whatever_names_it_tries(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.add_user("ann", GOOD)
        for number in range(3):
            with pytest.raises(InvalidCredentials):
                await accounts.login(f"user{number}", "wrong horse", network="192.0.2.1")
        with pytest.raises(TooManyAttempts, match="login_failures_per_network"):
            await accounts.login("ann", GOOD, network="192.0.2.1")
        assert await accounts.login("ann", GOOD, network="192.0.2.2")

    with_accounts(tmp_path / "a.db", test, login_failures_per_network=3)


def test_the_right_password_gets_in_from_another_network_and_from_a_known_device(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        user = await accounts.add_user("ann", GOOD)
        for _ in range(10):
            with pytest.raises(InvalidCredentials):
                await accounts.login("ann", "wrong horse", network="192.0.2.1")
        with pytest.raises(TooManyAttempts, match="login_failures"):
            await accounts.login("ann", GOOD, network="192.0.2.1")
        assert await accounts.login("ann", GOOD, network="192.0.2.2")
        assert await accounts.login("ann", GOOD, network="192.0.2.1", device=(user.id, "her phone"))
        for _ in range(10):
            with pytest.raises(InvalidCredentials):
                await accounts.login("ann", "wrong horse", network="192.0.2.3")
        with pytest.raises(TooManyAttempts):  # the device of another user is not one of hers
            await accounts.login("ann", GOOD, network="192.0.2.3", device=("bob", "his phone"))

    with_accounts(tmp_path / "a.db", test)


def test_guesses_on_a_known_device_are_counted_too(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        user = await accounts.add_user("ann", GOOD)
        for _ in range(10):
            with pytest.raises(InvalidCredentials):
                await accounts.login("ann", "wrong horse", device=(user.id, "a stolen phone"))
        with pytest.raises(TooManyAttempts):
            await accounts.login("ann", GOOD, device=(user.id, "a stolen phone"))

    with_accounts(tmp_path / "a.db", test)


def test_workers_count_guesses_together_and_a_restart_forgets_none(tmp_path: Path) -> None:
    async def guess(accounts: Accounts, times: int) -> list[type]:
        guesses = [accounts.login("ann", "wrong horse") for _ in range(times)]
        return [type(one) for one in await asyncio.gather(*guesses, return_exceptions=True)]

    async def first(one: Accounts) -> None:
        await one.add_user("ann", GOOD)
        two = Accounts(tmp_path / "a.db", clock=Clock())
        await two.open()
        of_one, of_two = await asyncio.gather(guess(one, 11), guess(two, 11))
        await two.aclose()
        assert (of_one + of_two).count(InvalidCredentials) == 10
        assert (of_one + of_two).count(TooManyAttempts) == 12

    async def second(accounts: Accounts) -> None:
        with pytest.raises(TooManyAttempts):
            await accounts.login("ann", GOOD)

    with_accounts(tmp_path / "a.db", first)
    with_accounts(tmp_path / "a.db", second)


def test_sign_ups_of_a_network_and_of_all_are_bounded(tmp_path: Path) -> None:
    clock = Clock()

    async def test(accounts: Accounts) -> None:
        for number in range(2):
            await accounts.add_user(f"a{number}", GOOD, network="192.0.2.1")
        with pytest.raises(TooManyAttempts, match="signups_per_network"):
            await accounts.add_user("a2", GOOD, network="192.0.2.1")
        with pytest.raises(NameTaken):  # what fails for another reason is not counted
            await accounts.add_user("a0", GOOD, network="192.0.2.2")
        await accounts.add_user("b0", GOOD, network="192.0.2.2")
        with pytest.raises(TooManyAttempts, match=r"limit signups\b"):
            await accounts.add_user("c0", GOOD, network="")
        await accounts.add_user("operator", GOOD)  # by the command line
        clock.now += 3_600
        await accounts.add_user("a2", GOOD, network="192.0.2.1")

    with_accounts(tmp_path / "a.db", test, clock, signups_per_network=2, signups=3)


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
        assert {type(outcome) for outcome in outcomes} == {InvalidCredentials, TooManyAttempts}

    with_accounts(tmp_path / "a.db", test)
    assert len(verified) == 10


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


def test_more_new_users_than_may_wait_are_sent_away(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        signups = [accounts.add_user(f"u{number}", GOOD) for number in range(10)]
        outcomes = await asyncio.gather(*signups, return_exceptions=True)
        # two are hashed, four wait
        assert [type(outcome) for outcome in outcomes].count(TooManyAttempts) == 4
        assert len(await accounts.users()) == 6

    with_accounts(tmp_path / "a.db", test, logins_waiting=4)


def test_turns_at_the_processor_go_round_and_the_largest_flood_is_sent_away() -> None:
    async def main() -> None:
        turns, order = FairTurns(1, 6), []

        async def work(*path: str) -> None:
            try:
                async with turns.turn(path):
                    order.append(" ".join(path))
                    await asyncio.sleep(0)
            except TooManyAttempts:
                order.append("sent away: " + " ".join(path))

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(work("login", "flood", "ann"))
            for path in (("login", "flood", "ben"), ("login", "home", "cid"), ("signup", "flood", "")):
                group.create_task(work(*path))
        done = [one for one in order if not one.startswith("sent away")]
        assert [one for one in order if one not in done] == ["sent away: login flood ann"] * 2
        assert done[1:5] == ["login flood ann", "signup flood ", "login home cid", "login flood ben"]
        assert done[5:] == ["login flood ann"] * 2
        async with turns.turn(("login", "", "")):  # every place was given back
            pass

    asyncio.run(main())


def test_a_login_that_gives_up_gives_its_turn_back() -> None:
    async def main() -> None:
        turns = FairTurns(1, 6)

        async def wait() -> None:
            async with turns.turn(("login", "", "")):
                pass

        async with turns.turn(("login", "", "")):
            waiting = [asyncio.create_task(wait()) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
        waiting[1].cancel()  # it has its turn, and cannot use it
        await asyncio.wait(waiting)
        async with asyncio.timeout(20), turns.turn(("login", "", "")):
            pass

    asyncio.run(main())


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
        assert await accounts.remove_user("ann") is not None
        assert not await accounts.remove_user("ann")
        assert await accounts.find("ann") is None
        with pytest.raises(InvalidCredentials):
            await accounts.login("ann", GOOD)
        await accounts.add_user("ann", "another horse")

    with_accounts(tmp_path / "a.db", test)


def test_the_next_user_of_a_name_is_somebody_else(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        first = await accounts.add_user("ann", GOOD)
        await accounts.sessions.start(first.id, 60)
        await accounts.rooms.use("tea", first.id)
        removed = await accounts.remove_user("Ann")
        assert removed is not None
        assert (removed.user, removed.sessions, removed.rooms) == (first, 1, 1)
        ids = [first.id]
        for name in ("ann", "Ann", "ann"):
            ids.append((await accounts.add_user(name, GOOD)).id)
            await accounts.remove_user(name)
        assert len(set(ids)) == 4
        assert [display_name(id_) for id_ in ids] == ["ann", "ann", "Ann", "ann"]

    with_accounts(tmp_path / "a.db", test)


def test_sessions_end_one_by_one_all_at_once_and_with_another_password(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        user = await accounts.add_user("ann", GOOD)
        first, second, third = [await accounts.sessions.start(user.id, 60, "a browser") for _ in range(3)]
        assert len(await accounts.sessions.of(user.id)) == 3
        assert await accounts.sessions.end(user.id, first.id) == 1
        assert await accounts.sessions.end("bob", second.id) == 0  # nobody ends another's
        assert await accounts.sessions.user(first.id) is None
        assert await accounts.sessions.user(second.id) == user
        with pytest.raises(InvalidCredentials):
            await accounts.change_password(user, "wrong horse", "another horse", keep=third.id)
        assert await accounts.change_password(user, GOOD, "another horse", keep=third.id) == 1
        assert [session.id for session in await accounts.sessions.of(user.id)] == [third.id]
        again, newest = await accounts.login("ann", "another horse")
        assert again == user
        assert await accounts.sessions.end(user.id) == 2
        ends = await accounts.sessions.ended_after(0)
        assert [end.session for end in ends[:2]] == [first.id, second.id]
        assert {end.session for end in ends[2:]} == {third.id, newest.id}

    with_accounts(tmp_path / "a.db", test)


@pytest.mark.parametrize("meanwhile", ["changed", "removed", "removed and added"])
def test_a_password_that_was_right_begins_nothing_when_it_is_not_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """A login, or a change of the password, that began with the old one ends with the new one."""
    verify = Passwords.verify
    events: list[Callable[[], Awaitable[object]]] = []

    async def overtaken(passwords: Passwords, password: str, expected: str, *path: str) -> bool:
        right = await verify(passwords, password, expected, *path)
        if events:
            await events.pop()()
        return right

    async def test(accounts: Accounts) -> None:
        user = await accounts.add_user("ann", GOOD)
        mine = await accounts.sessions.start(user.id, 60)

        async def event() -> None:
            if meanwhile == "changed":
                await accounts.change_password(user, GOOD, "another horse", keep=mine.id)
            else:
                await accounts.remove_user("ann")
            if meanwhile == "removed and added":
                await accounts.add_user("ann", GOOD)

        async def change() -> None:
            await accounts.change_password(user, GOOD, "a thief's horse")

        attempts: list[Callable[[], Awaitable[object]]] = [lambda: accounts.login("ann", GOOD), change]
        for attempt in attempts:
            events.append(event)
            with pytest.raises(InvalidCredentials):
                await attempt()
            assert not events
            left = [session.id for session in await accounts.sessions.of(user.id)]
            assert left == ([mine.id] if meanwhile == "changed" else [])
            if meanwhile == "changed":
                await accounts.change_password(user, "another horse", GOOD, keep=mine.id)
            elif await accounts.find("ann") is None:
                break

    monkeypatch.setattr(Passwords, "verify", overtaken)
    with_accounts(tmp_path / "a.db", test)


def test_the_oldest_session_of_a_user_ends_when_there_are_too_many(tmp_path: Path) -> None:
    clock = Clock()

    async def test(accounts: Accounts) -> None:
        user = await accounts.add_user("ann", GOOD)
        started = []
        for _ in range(4):
            clock.now += 1
            started.append((await accounts.sessions.start(user.id, 60)).id)
        assert [session.id for session in await accounts.sessions.of(user.id)] == started[:1:-1]
        clock.now += 60
        assert await accounts.sessions.of(user.id) == []

    with_accounts(tmp_path / "a.db", test, clock, sessions_per_user=2)


def test_rooms_are_remembered_in_their_order(tmp_path: Path) -> None:
    async def first(accounts: Accounts) -> None:
        assert await accounts.rooms.use("tea", "ann")
        assert await accounts.rooms.use("coffee", "bob")
        assert not await accounts.rooms.use("tea", "bob")

    async def second(accounts: Accounts) -> None:
        assert await accounts.rooms.names() == ["tea", "coffee"]
        assert not await accounts.rooms.use("tea", "cid")
        with pytest.raises(LimitExceeded, match="join another"):
            await accounts.rooms.use("milk", "cid")

    with_accounts(tmp_path / "a.db", first)
    with_accounts(tmp_path / "a.db", second, rooms=2)


def test_a_user_makes_only_a_share_of_the_rooms(tmp_path: Path) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.rooms.use("lobby", "")
        for number in range(2):
            await accounts.rooms.use(f"of ann {number}", "ann")
        with pytest.raises(LimitExceeded, match="rooms_per_user"):
            await accounts.rooms.use("one more", "ann")
        assert await accounts.rooms.use("of bob", "bob")
        assert not await accounts.rooms.use("of bob", "ann")

    with_accounts(tmp_path / "a.db", test, rooms_per_user=2)


def test_a_room_that_was_joined_meanwhile_does_not_end(tmp_path: Path) -> None:
    clock = Clock()

    async def test(accounts: Accounts) -> None:
        await accounts.rooms.use("tea", "ann")
        await accounts.rooms.use("coffee", "ann")
        clock.now += 4_000
        tea, coffee = await accounts.rooms.unused(3_600)
        await accounts.rooms.use("tea", "bob")
        assert not await accounts.rooms.end(tea)
        assert await accounts.rooms.end(coffee)
        assert await accounts.rooms.names() == ["tea"]

    with_accounts(tmp_path / "a.db", test, clock)


def test_a_file_of_an_earlier_version_keeps_its_users(tmp_path: Path) -> None:
    before = sqlite3.connect(tmp_path / "a.db")
    before.executescript("""
        CREATE TABLE accounts_users (
            key TEXT PRIMARY KEY, name TEXT NOT NULL, password TEXT NOT NULL, created REAL NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE accounts_rooms (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created REAL NOT NULL);
        INSERT INTO accounts_users VALUES ('ann', 'Ann', '', 1);
        INSERT INTO accounts_rooms VALUES (1, 'tea', 1);
    """)
    before.close()

    async def test(accounts: Accounts) -> None:
        assert [user.id for user in await accounts.users()] == ["Ann"]
        assert await accounts.rooms.names() == ["tea"]

    with_accounts(tmp_path / "a.db", test)


@pytest.mark.parametrize("apart", [False, True])
def test_an_account_is_in_the_hub_who_the_first_server_says_and_stays_apart(tmp_path: Path, apart: bool) -> None:
    path = tmp_path / "a.db"

    def opened(apart: bool | None, *new: str) -> dict[str, str]:
        found: dict[str, str] = {}

        async def test(accounts: Accounts) -> None:
            for name in new:
                await accounts.add_user(name, GOOD)
            found.update({user.name: user.hub_user for user in await accounts.users()})

        with_accounts(path, test, apart=apart)
        return found

    mark = "~account" if apart else ""
    opened(None, "early")  # as of an earlier version, or by `tidewire user add` before the first start
    assert opened(apart, "ann") == {"early": f"early{mark}", "ann": f"ann{mark}"}
    assert opened(None, "bob")["bob"] == f"bob{mark}"
    assert opened(not apart)["ann"] == "ann~account"  # a server that sets accounts apart does so for ever
    assert opened(False, "cid") == {"early": "early~account", "ann": "ann~account", "bob": "bob~account", "cid": "cid"}
    other = sqlite3.connect(path)
    other.execute("UPDATE accounts_users SET apart = NULL WHERE key = 'cid'")  # a worker of an earlier version adds it
    other.commit()
    other.close()
    assert opened(None)["cid"] == "cid"
    assert opened(True)["cid"] == "cid~account"


def test_servers_that_do_not_agree_on_who_accounts_are_in_the_hub_are_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(accounts: Accounts) -> None:
        await accounts.users()

    for apart, count in ((None, 0), (True, 0), (True, 0), (None, 0), (False, 1), (False, 1), (True, 2)):
        with_accounts(tmp_path / "a.db", test, apart=apart)
        assert len([record for record in caplog.records if "apart" in record.getMessage()]) == count


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
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)

    async def test(accounts: Accounts) -> None:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await accounts.rooms.use("tea", "ann")
        other.execute("ROLLBACK")
        other.close()
        assert await accounts.rooms.use("tea", "ann")

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
        await accounts.rooms.use(f"room{number}", "")
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
        assert len(await accounts.rooms.names()) == 10

    with_accounts(tmp_path / "a.db", test)
