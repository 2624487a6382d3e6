"""A real Chromium in front of a real server."""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from browser.people import Person
from browser.serving import Server
from requirements import require

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A busy machine is slow; a test that waits for something that comes does not get longer by a higher limit.
expect.set_options(timeout=30_000)

_numbers = itertools.count(1)


# Only while these tests run: the synchronous Playwright holds an event loop, beside which nobody else's can run.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    require(CHROMIUM.exists(), "chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, where somebody has an account, for the tests that do not end it; each uses names of its own."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    account = b'{"username": "first", "password": "correct horse"}'
    asked = urllib.request.Request(f"{server.url}/signup", account, {"Content-Type": "application/json"})
    urllib.request.urlopen(asked, timeout=10).close()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own, with the options given."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        server = Server(tmp_path, *options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def people(chromium: Browser) -> Iterator[Callable[..., Person]]:
    """Make people, each with a browser of their own; at the end nobody's console may hold an error."""
    made: list[Person] = []

    def make(server: Server, name: str = "", **options: object) -> Person:
        person = Person(chromium, server.url, name or f"user{next(_numbers)}", **options)
        made.append(person)
        return person

    yield make
    errors = [(person.name, error) for person in made for error in person.errors]
    for person in made:
        person.context.close()
    assert errors == []
