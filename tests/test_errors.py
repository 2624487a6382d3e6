"""The tree of errors, and the codes that end connections."""

from __future__ import annotations

import pytest

from tidewire import errors
from tidewire.errors import CommandError, ConfigurationError, ConnectionClosed, Disconnect
from tidewire.protocols import close_codes
from tidewire.protocols.close_codes import check_close_code

NAMED = {name: value for name, value in vars(close_codes).items() if isinstance(value, Disconnect)}


def test_every_error_has_the_one_root() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(raised) > 10
    assert all(issubclass(error, errors.TidewireError) for error in raised)
    assert {error.__name__ for error in raised} <= set(errors.__all__)


def test_every_command_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in CommandError.__subclasses__()]
    assert len(set(codes)) == len(codes) == 12
    assert {error.__name__ for error in CommandError.__subclasses__() if error.temporary} == {
        "RateLimited",
        "TemporaryFailure",
    }


@pytest.mark.parametrize("name", NAMED)
def test_disconnects_can_be_sent(name: str) -> None:
    disconnect = NAMED[name]
    check_close_code(disconnect.code)
    assert len(disconnect.reason.encode()) <= 123


@pytest.mark.parametrize("name", NAMED)
def test_the_range_of_a_code_says_whether_to_come_back(name: str) -> None:
    disconnect = NAMED[name]
    if disconnect.code >= 4000:
        assert disconnect.reconnect is (disconnect.code < 4500)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 3999, 4000, 4999])
def test_codes_that_can_be_sent(code: int) -> None:
    check_close_code(code)


@pytest.mark.parametrize("code", [-1, 0, 200, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000])
def test_codes_that_cannot_be_sent(code: int) -> None:
    with pytest.raises(ConfigurationError, match=str(code)):
        check_close_code(code)


def test_a_closed_connection_says_why() -> None:
    error = ConnectionClosed(Disconnect(4001, "bye"))
    assert error.disconnect.code == 4001
    assert "4001" in str(error)
    assert "bye" in str(error)
    assert "no reason" in str(ConnectionClosed(Disconnect(1000, "")))
