"""What the URL of a Redis store says, and that nobody is shown its password."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from engine.support import run
from helpers.stores import start_redis
from tidewire import Hub
from tidewire.backends import open_backend
from tidewire.backends.redis.address import Kind, parse_address
from tidewire.backends.redis.keys import Keys, slot_of
from tidewire.errors import ConfigurationError
from tidewire.limits import Limits

from .helpers import Ledger, check, connect, received, redis_node


def test_a_plain_server() -> None:
    address = parse_address("redis://ann:s%2Fecret@example.org:7000/3?wait=2&prefix=shop")
    assert (address.kind, address.hosts, address.db) == (Kind.SINGLE, (("example.org", 7000),), 3)
    assert (address.username, address.password, address.wait, address.prefix) == ("ann", "s/ecret", 2, "shop")
    assert not address.tls
    assert parse_address("redis://").hosts == (("localhost", 6379),)
    assert parse_address("redis://:only@[::1]").password == "only"
    assert parse_address("rediss://h?ssl_ca_certs=/ca.pem").tls_options == (("ssl_ca_certs", "/ca.pem"),)


def test_sentinels_and_clusters() -> None:
    address = parse_address("redis+sentinel://:pw@one:1,two/main/5?sentinel_password=other")
    assert (address.kind, address.hosts) == (Kind.SENTINEL, (("one", 1), ("two", 26379)))
    assert (address.service, address.db, address.password, address.sentinel_password) == ("main", 5, "pw", "other")
    cluster = parse_address("rediss+cluster://one,two:2")
    assert (cluster.kind, cluster.hosts, cluster.tls) == (Kind.CLUSTER, (("one", 6379), ("two", 2)), True)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret@one,two",
        "redis://u:s3cret@host:port",
        "redis://u:s3cret@host/a/b",
        "redis://u:s3cret@host/x",
        "redis://u:s3cret@host?wait=many",
        "redis://u:s3cret@host?retry=1",
        "redis://u:s3cret@host?prefix=a{b",
        "redis+sentinel://u:s3cret@host",
        "redis+cluster://u:s3cret@host/2",
        "redis+other://u:s3cret@host",
    ],
)
def test_a_url_that_cannot_work_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hub(url)
    assert "s3cret" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    address = parse_address("redis+sentinel://u:s3cret@host/main?sentinel_password=s3cret2")
    assert "s3cret" not in f"{address!r} {address} {address.shown}"


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith(("redis", "tidewire.backends.redis")):
            raise ModuleNotFoundError("No module named 'redis'", name="redis")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"pip install 'tidewire\[redis\]'"):
        open_backend("redis://localhost", Limits())


def test_slots_are_those_of_redis_and_keys_of_a_channel_share_one() -> None:
    assert (slot_of("123456789"), slot_of("foo")) == (
        12739,
        12182,
    )  # from the cluster specification, and CLUSTER KEYSLOT
    keys = Keys(parse_address("redis+cluster://host"))
    for channel in ("a", "a}b", "}", "{x}", "50%", "raum/ü"):
        names = [*keys.channel(channel), keys.once(channel, "k}")]
        tags = {name[name.index("{") + 1 : name.index("}")] for name in names}
        assert {slot_of(tag) for tag in tags} == {keys.slot(channel)}
    assert len({keys.tag(channel) for channel in ("}", "%7D", "%257D", "%")}) == 4


@pytest.mark.parametrize("scheme", ["unix", "redis+unix", "redis+socket"])
def test_a_unix_socket_works(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "redis.sock"

    async def scenario() -> None:
        async with redis_node(f"{scheme}://{path}?db=2&prefix=mine") as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(3)
            await received(client, ledger)
            check(client, ledger)

    with start_redis(tmp_path, "--unixsocket", str(path)):
        run(scenario())


@pytest.mark.parametrize("url", ["unix://", "unix:///", "unix://host/path", "unix:///run/x.sock?ssl_cert_reqs=none"])
def test_a_url_that_names_no_socket_says_so(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"socket|option"):
        parse_address(url)
