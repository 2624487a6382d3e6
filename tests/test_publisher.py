"""Publishing from another process, from threads, and across a fork."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from tidewire import CommandError, ConfigurationError, Hub, Limits, NotPublished, Publisher
from tidewire.messages import HistoryPage


def history(url: str, channel: str) -> HistoryPage:
    async def read() -> HistoryPage:
        async with Hub(url) as hub:
            return await hub.history(channel)

    return asyncio.run(read())


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def test_what_is_published_is_kept_in_order_with_its_format(url: str) -> None:
    with Publisher(url) as publisher:
        positions = [publisher.publish("news", data) for data in ("text", b"bytes", {"json": 1})]
    page = history(url, "news")
    assert [position.offset for position in positions] == [1, 2, 3]
    assert page.top == positions[-1]
    assert [(p.data, p.format.name) for p in page.publications] == [
        (b"text", "TEXT"),
        (b"bytes", "BINARY"),
        (b'{"json":1}', "JSON"),
    ]


def test_the_same_key_is_published_once(url: str) -> None:
    with Publisher(url) as publisher:
        first = publisher.publish("news", "one", key="k")
        assert publisher.publish("news", "one", key="k") == first
    assert len(history(url, "news").publications) == 1


def test_a_user_gets_what_is_sent_to_them(url: str) -> None:
    async def run() -> list[bytes]:
        async with Hub(url) as hub:
            with Publisher(url) as publisher:
                await asyncio.to_thread(publisher.send_to_user, "ann", "for ann")
            return [publication.data for publication in (await hub.inbox("ann")).publications]

    assert asyncio.run(run()) == [b"for ann"]


def test_many_threads_share_one_publisher(url: str) -> None:
    with Publisher(url) as publisher, ThreadPoolExecutor(8) as pool:
        offsets = [p.offset for p in pool.map(lambda n: publisher.publish("news", str(n)), range(80))]
    assert sorted(offsets) == list(range(1, 81))


def test_closing_lets_what_was_accepted_finish(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    publisher = Publisher(f"sqlite:///{path}", limits=Limits(publish_seconds=20))
    publisher.publish("news", "first")
    lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(publisher.publish, "news", "in flight") for _ in range(4)]
        wait_for(lambda: all(answer.running() for answer in answers))
        closing = pool.submit(publisher.close)
        wait_for(lambda: publisher._is_closed)
        lock.execute("ROLLBACK")
        closing.result(10)
        # one that came after the close was refused; none is in doubt
        kept = [answer.result(10) for answer in answers if not isinstance(answer.exception(10), NotPublished)]
    lock.close()
    assert sorted(position.offset for position in kept) == list(range(2, 2 + len(kept)))
    assert len(history(f"sqlite:///{path}", "news").publications) == 1 + len(kept)


def test_a_closed_publisher_says_so_and_may_be_closed_again(url: str) -> None:
    publisher = Publisher(url)
    publisher.close()
    publisher.close()
    with pytest.raises(NotPublished, match="closed"):
        publisher.publish("news", "late")


def test_memory_is_refused_because_it_belongs_to_another_process() -> None:
    with pytest.raises(ConfigurationError, match="lives inside one process"):
        Publisher("memory://")


@pytest.mark.parametrize("channel", ["", "$control", "$user:ann", " padded"])
def test_a_name_that_is_no_channel_is_refused(url: str, channel: str) -> None:
    with Publisher(url) as publisher, pytest.raises(CommandError):
        publisher.publish(channel, "x")


def test_a_store_that_cannot_be_used_says_why_and_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with Publisher(f"sqlite:///{folder}/store.db") as publisher:
        with pytest.raises(ConfigurationError, match="later"):
            publisher.publish("news", "too early")
        folder.mkdir()
        assert publisher.publish("news", "now").offset == 1


def test_a_locked_store_is_not_published_and_within_the_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Publisher(f"sqlite:///{path}", limits=Limits(publish_seconds=0.3)) as publisher:
        publisher.publish("news", "first")
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotPublished):
            publisher.publish("news", "blocked")
        lock.execute("ROLLBACK")
        lock.close()
        assert publisher.publish("news", "again").offset == 2


def test_a_publisher_made_before_a_fork_works_after_it(url: str) -> None:
    publisher = Publisher(url)
    assert _in_a_fork(publisher) == "1"


def test_a_publisher_used_before_a_fork_refuses_to_be_used_after_it(url: str) -> None:
    with Publisher(url) as publisher:
        publisher.publish("news", "parent")
        assert "forked" in _in_a_fork(publisher)
        assert publisher.publish("news", "parent again").offset == 2


def _in_a_fork(publisher: Publisher) -> str:
    context = multiprocessing.get_context("fork")
    answers: SimpleQueue[str] = context.SimpleQueue()

    def child() -> None:
        try:
            answers.put(str(publisher.publish("news", "child").offset))
        except ConfigurationError as error:
            answers.put(str(error))
        publisher.close()

    process = context.Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    return answers.get()


def test_a_script_that_forgets_to_close_ends_by_itself(url: str) -> None:
    script = f"from tidewire import Publisher; print(Publisher({url!r}).publish('news', 'hello').offset)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "1\n"


def test_a_longer_history_is_not_cut_by_who_does_not_know_its_rule(url: str) -> None:
    from tidewire import ChannelOptions

    async def fill() -> None:
        async with Hub(url, channels={"news": ChannelOptions(history_size=500)}) as hub:
            for number in range(150):
                await hub.publish("news", str(number))

    asyncio.run(fill())
    with Publisher(url) as publisher:
        publisher.publish("news", "from outside")
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    assert database.execute("SELECT keep_size FROM tidewire_channels WHERE name = 'news'").fetchone() == (500,)
    database.close()
