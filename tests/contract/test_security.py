"""What an attacker tries at the server's doors: origins, cookies, tokens, subprotocols, logs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .chatting import Chat
from .raw import RawSocket, handshake
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-security")

ALLOWED = "https://good.example"


@pytest.fixture(scope="module")
def public_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that others can reach, with one foreign origin allowed, which logs all that it can."""
    arguments = ("--host", "0.0.0.0", "--access-log", "--log-level", "debug")
    environment = {"TIDEWIRE_ALLOWED_ORIGINS": ALLOWED}
    folder = tmp_path_factory.mktemp("public")
    with Server(folder, *arguments, environment=environment).running() as running:
        yield running


def status(server: Server, path: str, *headers: tuple[str, str]) -> int:
    """Return the HTTP status of a handshake."""
    client, head = handshake(server, path, *headers)
    client.close()
    return int(head.split(maxsplit=2)[1])


# Origins (1) and cookies (2).


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://good.example",
        "https://good.example.evil.example",
        "https://evil-good.example",
        "https://sub.good.example",
        "https://good.example:8443",
        "https://good.example@evil.example",
        "https://user@good.example",
        "https://good.example/",
        "https://good.example.",
        "https://GOOD.EXAMPLE",
        "http://localhost:3000",
        "file://",
        "*",
        "",
        "x" * 10_000,
    ],
)
def test_a_foreign_origin_is_refused_even_with_a_good_token(public_server: Server, origin: str) -> None:
    _, token = public_server.sign_up()
    assert status(public_server, "/ws/auth", ("Authorization", f"Bearer {token}"), ("Origin", origin)) == 403
    assert status(public_server, f"/ws/auth?token={token}", ("Origin", origin)) == 403
    assert status(public_server, "/ws/auth", ("Origin", origin)) == 403


def test_the_own_origin_and_the_allowed_one_may_connect(public_server: Server) -> None:
    _, token = public_server.sign_up()
    own = f"http://127.0.0.1:{public_server.port}"
    for origin in (own, own.replace("http:", "https:"), ALLOWED):
        assert status(public_server, f"/ws/auth?token={token}", ("Origin", origin)) == 101, origin


def test_two_origins_are_refused(public_server: Server, server: Server) -> None:
    for one, two in ((ALLOWED, "https://evil.example"), ("https://evil.example", ALLOWED), (ALLOWED, ALLOWED)):
        assert status(public_server, "/ws/auth", ("Origin", one), ("Origin", two)) in (400, 403)
    own = f"http://127.0.0.1:{server.port}"
    assert status(server, "/ws", ("Origin", own), ("Origin", "https://evil.example")) in (400, 403)


def test_on_loopback_pages_of_this_machine_may_connect_and_no_others(server: Server) -> None:
    for origin in ("http://localhost:3000", "http://127.0.0.1:5173", "http://localhost", "http://[::1]:8080"):
        assert status(server, "/ws", ("Origin", origin)) == 101, origin
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1.evil.example:80"):
        assert status(server, "/ws", ("Origin", origin)) == 403, origin


def test_a_cookie_does_not_open_the_door_to_a_foreign_page(public_server: Server) -> None:
    _, token = public_server.sign_up()
    cookie = ("Cookie", f"token={token}")
    assert status(public_server, "/ws/auth", cookie, ("Origin", "https://evil.example")) == 403
    assert status(public_server, "/ws/auth", cookie, ("Origin", ALLOWED)) == 101


# Tokens in logs (3).


def test_no_token_is_ever_in_a_log_or_an_answer(public_server: Server) -> None:
    name, token = public_server.sign_up(password="SECRET-password-1")
    wrong = "SECRET-wrong-token"
    with RawSocket(public_server, f"/ws/auth?token={token}") as socket:
        socket.next_message()
    headers = [("Authorization", f"Bearer {wrong}"), ("Cookie", f"token={wrong}")]
    for path in (f"/ws/auth?token={wrong}", f"/ws/auth?room=x&token={wrong}", f"/ws/auth?access_token={wrong}"):
        client, head = handshake(public_server, path)
        assert b"SECRET" not in head
        client.close()
    for header in headers:
        assert status(public_server, "/ws/auth", header) == 403
    with RawSocket(public_server, "/ws/auth") as socket:
        socket.send_text(json.dumps({"type": "auth", "token": wrong}))
        assert socket.closed() == 1008
    with RawSocket(public_server, "/ws/auth") as socket:
        socket.send_text(json.dumps({"type": "auth", "token": token}))
        assert b"history" in socket.next_message()
        socket.send_text(json.dumps({"type": "auth", "token": token}))
        assert token.encode() not in socket.next_message()
    http = public_server.http
    for answer in (
        http.get("/nowhere", params={"token": wrong}),
        http.get("/me", headers={"Authorization": f"Bearer {wrong}"}),
        http.post("/login", json={"username": name, "password": "SECRET-password-2"}),
        http.post("/login", content=b'{"username": "SECRET-password-3"'),
        http.post("/signup", json={"username": "SECRET name", "password": "SECRET-password-4"}),
    ):
        assert "SECRET-" not in answer.text
    log = public_server.log()
    assert "/ws/auth" in log, "it logs the requests"
    assert "SECRET-" not in log
    assert token not in log
    assert token.rpartition(".")[2] not in log


# Subprotocols (4).


def test_a_token_among_the_subprotocols_is_never_echoed(server: Server) -> None:
    _, token = server.sign_up()
    path = f"/ws/subprotocol?token={token}"

    def chosen(offer: str) -> list[str]:
        client, head = handshake(server, path, ("Sec-WebSocket-Protocol", offer))
        client.close()
        assert b" 101 " in head
        return re.findall(r"(?im)^sec-websocket-protocol: *(.*?)\r$", head.decode())

    assert chosen("chat, bearer.SECRET") == ["chat"]
    assert chosen("bearer.SECRET, chat") == ["chat"]
    assert chosen("bearer.SECRET") == []
    assert chosen(", ".join(f"protocol-{number}" for number in range(1_000))) == []
    assert chosen(", ".join([f"protocol-{number}" for number in range(1_000)] + ["notifications"])) == ["notifications"]


# Forged tokens (6).


def encoded(value: bytes) -> str:
    """Return base64url without padding, as JWTs have it."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def forged(name: str, key: bytes, session: str) -> dict[str, str]:
    """Return tokens that must not be taken, by what is wrong with them."""
    now = int(time.time())
    good: dict[str, Any] = {"sub": name, "jti": session, "iat": now, "exp": now + 3_600, "iss": "tidewire"}
    rsa_key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = rsa_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    payload = encoded(json.dumps(good).encode())

    def signed(header: dict[str, Any], body: str = payload, with_key: bytes = key, digest: str = "sha256") -> str:
        text = f"{encoded(json.dumps(header).encode())}.{body}"
        return f"{text}.{encoded(hmac.digest(with_key, text.encode(), digest))}"

    def without(claim: str) -> dict[str, Any]:
        return {name: value for name, value in good.items() if name != claim}

    unsigned = f"{encoded(json.dumps({'alg': 'none', 'typ': 'JWT'}).encode())}.{payload}."
    valid = jwt.encode(good, key, algorithm="HS256")
    head, body, signature = valid.split(".")
    return {
        "no algorithm": unsigned,
        "no algorithm, in capitals": unsigned.replace(encoded(b'{"alg": "none"'), encoded(b'{"alg": "NONE"')),
        "another key": jwt.encode(good, b"another key" * 4, algorithm="HS256"),
        "an empty key": signed({"alg": "HS256"}, with_key=b""),
        "RSA": jwt.encode(good, rsa_key, algorithm="RS256"),
        "a public key as HMAC key": signed({"alg": "HS256"}, with_key=pem),
        "the right key, another algorithm": signed({"alg": "HS512"}, digest="sha512"),
        "an algorithm that lies": signed({"alg": "RS256"}),
        "a key id that is a path": signed({"alg": "HS256", "kid": "../../../../dev/null"}, with_key=b""),
        "a key of its own": signed(
            {"alg": "HS256", "jwk": {"kty": "oct", "k": encoded(b"x" * 32)}}, with_key=b"x" * 32
        ),
        "no expiry": jwt.encode(without("exp"), key, algorithm="HS256"),
        "expired": jwt.encode({**good, "exp": now - 60}, key, algorithm="HS256"),
        "no issuer": jwt.encode(without("iss"), key, algorithm="HS256"),
        "another issuer": jwt.encode({**good, "iss": "evil"}, key, algorithm="HS256"),
        "no user": jwt.encode(without("sub"), key, algorithm="HS256"),
        "an unknown user": jwt.encode({**good, "sub": "nobody-at-all"}, key, algorithm="HS256"),
        "a user that is a list": signed({"alg": "HS256"}, encoded(json.dumps({**good, "sub": [name]}).encode())),
        "an expiry that is text": signed({"alg": "HS256"}, encoded(json.dumps({**good, "exp": "never"}).encode())),
        "an expiry without end": signed({"alg": "HS256"}, encoded(json.dumps({**good, "exp": float("inf")}).encode())),
        "a huge payload": jwt.encode({**good, "padding": "x" * 9_000}, key, algorithm="HS256"),
        "a body that was changed": f"{head}.{encoded(json.dumps({**good, 'sub': 'admin'}).encode())}.{signature}",
        "no signature": f"{head}.{body}.",
        "half a signature": f"{head}.{body}.{signature[:20]}",
        "something behind it": f"{valid}.{signature}",
        "nested too deep": signed({"alg": "HS256"}, encoded(b'{"sub":' + b"[" * 3_000)),
        "not a token": "not-a-token",
        "white space": "%20",
        "line breaks": f"{valid[:20]}%0d%0a{valid[20:]}",
        "not ASCII": "t%C3%B6ken",
        "a NUL": f"{valid}%00",
    }


def test_forged_tokens_open_nothing(server: Server) -> None:
    name, token = server.sign_up()
    key = bytes.fromhex((server.folder / "tidewire.db.key").read_text())
    assert status(server, f"/ws/auth?token={token}") == 101
    now = int(time.time())
    session = jwt.decode(token, options={"verify_signature": False})["jti"]
    claims = {"sub": name, "jti": session, "iat": now, "exp": now + 60, "iss": "tidewire"}
    own = jwt.encode(claims, key, algorithm="HS256")
    assert status(server, f"/ws/auth?token={own}") == 101, "a token that is made like the server's is good"
    for what, bad in forged(name, key, session).items():
        assert status(server, f"/ws/auth?token={bad}") == 403, what
        with RawSocket(server, "/ws/auth") as socket:
            socket.send_text(json.dumps({"type": "auth", "token": bad}))
            assert socket.closed() == 1008, what


def test_the_key_is_for_its_owner_alone(server: Server) -> None:
    assert (server.folder / "tidewire.db.key").stat().st_mode & 0o777 == 0o600
    assert (server.folder / "tidewire.db").stat().st_mode & 0o077 == 0


# Logs that are not what they seem (22).


def test_nothing_that_people_send_forges_a_line_or_a_colour_in_the_log(public_server: Server) -> None:
    name, token = public_server.sign_up()
    forged_line = "\n2026-01-01 00:00:00,000 INFO [1] tidewire: FAKE \x1b[31mred"
    encoded_line = "%0a2026-01-01%20INFO%20FAKE%1b[31mred"
    for path in (f"/ws/auth?token={token}&room={encoded_line}", f"/nowhere/{encoded_line}", f"/ws/{encoded_line}"):
        client, _ = handshake(public_server, path, ("User-Agent", "x\x1b[31m FAKE"), ("Origin", "https://FAKE\x1b[31m"))
        client.close()
    public_server.http.post("/login", json={"username": forged_line, "password": "wrong password"})
    public_server.http.get(f"/nowhere/{encoded_line}")

    async def scenario() -> None:
        async with Chat(public_server, token) as chat:
            await chat.joined()
            await chat.say(f"the words of {name} {forged_line}")
            await chat.send("join", room=forged_line)
            await chat.send("private_chat", target_user=forged_line, message="x")
            await chat.send(forged_line)
            await chat.settle()
            await chat.socket.close(4_000, "FAKE\x1b[31m\n")

    asyncio.run(scenario())
    log = public_server.log()
    assert "\x1b" not in log
    assert not [line for line in log.splitlines() if line.startswith("2026-01-01")]
    assert "the words of" not in log, "what people say is not logged"
