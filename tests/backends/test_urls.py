"""What is said of a URL that cannot be read: nothing that may be of its password."""

from __future__ import annotations

import pytest

from tidewire.backends import open_backend
from tidewire.errors import ConfigurationError
from tidewire.limits import Limits

SCHEMES = ("redis", "redis+sentinel", "redis+cluster", "nats", "tls", "postgresql", "mysql")
FORMS = (
    "ann:s3cret/more@host",
    "ann:s3cret?more@host",
    "ann:s3cret#more@host",
    "ann:s3cret[more@host",
    "ann:[s3cret]@host",
    "ann:s3cret\u2100@host",
    "ann:more@s3cret/more@host",
    ":s3cret",
    "ann:1/s3cret@host",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_part_of_a_password_is_told(scheme: str, form: str) -> None:
    told = ""
    try:
        open_backend(f"{scheme}://{form}", Limits())
    except ConfigurationError as error:
        told = str(error)
    assert "s3cret" not in told


def test_a_file_may_have_any_name() -> None:
    open_backend("sqlite:///chat@home.db", Limits())


@pytest.mark.parametrize(
    "url", ["sqlite:///:memory:", "sqlite:///file::memory:?cache=shared", "sqlite:///x?mode=memory"]
)
def test_sqlite_without_a_file_is_refused_and_the_store_of_one_process_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write memory://"):
        open_backend(url, Limits())
