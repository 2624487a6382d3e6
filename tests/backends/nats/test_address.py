"""What a nats:// URL says, and what is shown of it."""

from __future__ import annotations

import pytest

from tidewire.backends import open_backend
from tidewire.backends.checked import CheckedBroker
from tidewire.backends.nats import NatsAddress, NatsBroker
from tidewire.errors import ConfigurationError
from tidewire.limits import Limits


def test_a_url_names_servers_and_options() -> None:
    address = NatsAddress.from_url("nats://ann:s3cret@one:4222,two?stream=CHAT&replicas=3&credentials=/etc/x.creds")
    assert address.servers == ("nats://ann:s3cret@one:4222", "nats://ann:s3cret@two:4222")
    assert (address.shown, address.stream, address.replicas) == ("one:4222,two:4222", "CHAT", 3)
    assert address.credentials == "/etc/x.creds"
    assert NatsAddress.from_url("nats://localhost").servers == ("nats://localhost:4222",)
    assert NatsAddress.from_url("tls://[::1]:4443").servers == ("tls://[::1]:4443",)


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "nats://ann:s3cret@",
        "nats://ann:s3cret@host:notaport",
        "nats://ann:s3cret@host/path",
        "nats://ann:s3cret@host?streem=x",
        "nats://ann:s3cret@host?stream=a.b",
        "nats://ann:s3cret@host?replicas=2",
        "nats://ann:s3cret@host?broken",
        "nats://ann:s3cret@[::1",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_backend(url, Limits())
    assert "s3cret" not in str(raised.value)


def test_the_table_opens_it() -> None:
    broker, _ = open_backend("nats://localhost", Limits())
    assert isinstance(broker, CheckedBroker)
    assert isinstance(broker.judged, NatsBroker)
    assert broker.shared
