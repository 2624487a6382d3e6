"""A server on loopback answers to its own names alone, and changes nothing for pages of another site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tidewire.errors import ConfigurationError
from tidewire.server.settings import load

from .live_server import LiveServer

GOOD = {"username": "ann", "password": "a good password"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on loopback whose pages have a public name, too."""
    arguments = ("--broker", "memory://", "--allowed-origins", "https://chat.example.org")
    with LiveServer(tmp_path_factory.mktemp("same-site"), *arguments) as running:
        yield running


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Host": "localhost:8000"}, 401),
        ({"Host": "chat.example.org"}, 401),
        ({"Host": "evil.example"}, 403),  # DNS rebinding: the name of another site leads to this machine
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8000.evil.com"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 401),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_foreign_hosts_and_pages_are_refused_on_every_route(
    server: LiveServer, headers: dict[str, str], status: int
) -> None:
    assert server.post("/login", json=GOOD, headers=headers).status_code == status
    if status == 403 and "Host" in headers:
        for path in ("/", "/healthz", "/me", "/ui/mark.svg", "/api/pipelines"):
            assert server.get(path, headers=headers).status_code == 403


def test_a_page_of_its_own_may_log_in(server: LiveServer) -> None:
    headers = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert server.post("/login", json=GOOD, headers=headers).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_probes_may_ask_by_head(server: LiveServer, path: str) -> None:
    assert httpx.head(server.url + path).status_code == 200


@pytest.mark.parametrize("name", ["room", "events", "tutorial"])
def test_a_namespace_that_would_open_the_chat_is_refused_at_start(tmp_path: Path, name: str) -> None:
    file = tmp_path / "tidewire.toml"
    file.write_text(f'[[channel.namespaces]]\nname = "{name}"\nallow_publish_for_client = true\n')
    with pytest.raises(ConfigurationError, match=f"namespace '{name}' belongs to the server itself"):
        load(file)
