"""Which pages may connect: origins as an application writes them, and as browsers send them."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from tidewire import ConfigurationError, Hub
from tidewire.sessions.origins import Origins


def asks(*headers: tuple[str, str], host: str = "example.org", method: str = "") -> HTTPConnection:
    """Return a handshake, or a request where there is a method."""
    fields = [(name.encode(), value.encode()) for name, value in (("host", host), *headers)]
    return HTTPConnection(
        {"type": "http" if method else "websocket", "headers": fields} | ({"method": method} if method else {})
    )


def allows(allowed: str, origin: str) -> bool:
    return Origins([allowed]).allows(asks(("origin", origin)))


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://APP.Example.com", "https://app.example.com"),
        ("HTTPS://app.example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:8080", "http://app.example.com:8080"),
        ("https://münchen.example", "https://xn--mnchen-3ya.example"),
        ("https://例え.example:8443", "https://xn--r8jz45g.example:8443"),
        ("https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("http://localhost:*", "http://localhost"),
        ("http://localhost:*", "http://localhost:5173"),
        ("http://*.localhost:*", "http://shop.localhost:5173"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("*", "null"),
        ("*", "https://anywhere.example"),
    ],
)
def test_an_origin_that_is_allowed(allowed: str, origin: str) -> None:
    assert allows(allowed, origin)


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://example.com", "http://example.com"),
        ("https://example.com", "https://example.com:8443"),
        ("https://example.com", "https://example.com.evil.example"),
        ("https://example.com", "https://example.com@evil.example"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("http://127.0.0.1:*", "http://127.0.0.1:8000.evil.com"),
        ("http://127.0.0.1:*", "http://127.0.0.1:99999"),
        ("http://127.0.0.1:*", "http://127.0.0.1.evil.com:80"),
        ("http://localhost:*", "http://localhost:*"),
        ("capacitor://localhost", "http://localhost"),
        ("https://example.com", "https://example.com, https://evil.example"),
    ],
)
def test_an_origin_that_is_not_allowed(allowed: str, origin: str) -> None:
    assert not allows(allowed, origin)


@pytest.mark.parametrize(
    ("allowed", "remedy"),
    [
        ("null", "every page"),
        ("file:///home/ann", "every page"),
        ("wss://app.example.com", "write it as https://app.example.com"),
        ("ws://localhost:3000", "write it as http://localhost:3000"),
        ("app.example.com", "write it as https://app.example.com"),
        ("localhost:3000", "write it as https://localhost:3000"),
        ("https://example.com/app", "scheme, host and port"),
        ("https://ann@example.com", "scheme, host and port"),
        ("https://example.com:http", "scheme, host and port"),
        ("https://example.com:0", "1 to 65535"),
        ("https://example.com:70000", "1 to 65535"),
        ("https://app.*.example.com", r"https://\*\.example\.org"),
        ("https://300.1.1.1", "a host that is none"),
        ("https://straße.example", "xn--"),
        ("", "write it as"),
    ],
)
def test_an_origin_that_could_never_match_is_refused_at_start(allowed: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        Hub(origins=[allowed])


def test_a_text_is_no_list_of_origins() -> None:
    with pytest.raises(ConfigurationError, match=r"origins=\['https://a.example'\]"):
        Hub(origins="https://a.example")


@pytest.mark.parametrize(
    ("host", "origin", "is_own"),
    [
        ("example.org", "https://example.org", True),
        ("EXAMPLE.org", "https://example.org", True),
        ("example.org:443", "https://example.org", True),
        ("example.org:80", "http://example.org", True),
        ("example.org:8000", "http://example.org:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("example.org:8000", "http://example.org", False),
        ("example.org", "capacitor://example.org", False),
        ("example.org, evil.example", "https://evil.example", False),
        ("", "https://evil.example", False),
    ],
)
def test_the_pages_of_the_site_itself(host: str, origin: str, is_own: bool) -> None:
    assert Origins().allows(asks(("origin", origin), host=host)) == is_own


@pytest.mark.parametrize("scheme", ["http", "ws", "https", "wss"])
def test_a_page_without_tls_is_of_another_site_than_a_request_with_it(scheme: str) -> None:
    for page in ("http", "https"):
        connection = asks(("origin", f"{page}://example.org"))
        connection.scope["scheme"] = scheme
        assert Origins(()).allows(connection) is (page == "https" or scheme in ("http", "ws"))
    connection = asks(("origin", "http://example.org"))
    connection.scope["scheme"] = scheme
    assert Origins(["http://example.org"]).allows(connection)


def test_two_origins_are_none() -> None:
    twice = (("origin", "https://example.org"), ("origin", "https://example.org"))
    assert not Origins().allows(asks(*twice))


def test_two_hosts_are_none() -> None:
    assert not Origins().allows(asks(("host", "evil.example"), ("origin", "https://evil.example")))


@pytest.mark.parametrize(
    ("method", "site", "may"),
    [
        ("POST", "cross-site", False),
        ("DELETE", "same-site", False),
        ("", "cross-site", False),
        ("POST", "same-origin", True),
        ("POST", "none", True),
        ("GET", "cross-site", True),
    ],
)
def test_a_page_that_sends_no_origin_is_known_by_fetch_metadata(method: str, site: str, may: bool) -> None:
    assert Origins().allows(asks(("sec-fetch-site", site), method=method)) == may


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("localhost:8000", True),
        ("shop.localhost", True),
        ("127.0.0.1:8000", True),
        ("127.8.0.1", True),
        ("[::1]:8000", True),
        ("app.example.org", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8000", False),
        ("", False),
    ],
)
def test_a_site_of_loopback_alone_has_no_foreign_name(host: str, may: bool) -> None:
    origins = Origins(["https://app.example.org"], loopback_only=True)
    assert origins.allows(asks(host=host)) == may
    assert origins.allows(asks(("origin", f"http://{host}"), host=host)) == may
