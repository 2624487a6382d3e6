"""Tokens that were made to be misread, and a key set whose server does not want to end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from tidewire.errors import TemporaryFailure, TokenExpired
from tidewire.tokens import token_keys
from tidewire.tokens.client_tokens import BadToken, ClientTokens
from tidewire.tokens.token_keys import KeysAway, KeySet
from tidewire.tokens.token_settings import TokenTable

SECRET = "a secret that is long enough for SHA-256"
PLAIN = {"alg": "HS256"}
TABLE = TokenTable(hmac_secret_key=SecretStr(SECRET))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Mapping[str, object], claims: bytes, secret: str = SECRET) -> str:
    """Return a token with any header and any claims, signed with HMAC-SHA-256."""
    text = f"{_base64(json.dumps(header).encode())}.{_base64(claims)}"
    return f"{text}.{_base64(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(
    "token",
    [
        ".".join((_base64(b'{"alg":"none"}'), _base64(b'{"sub":"ann"}'), "")),
        signed({"alg": "None"}, b'{"sub":"ann"}'),
        signed({"alg": "RS256"}, b'{"sub":"ann"}'),
        signed({"alg": ["HS256"]}, b'{"sub":"ann"}'),
        signed({}, b'{"sub":"ann"}'),
        signed(PLAIN, b'{"sub":"ann"}').rpartition(".")[0] + ".",
        signed({"alg": "HS256", "jwk": {"kty": "oct", "k": _base64(b"x" * 32)}}, b'{"sub":"ann"}', "x" * 32),
        signed({"alg": "HS256", "crit": ["b64"], "b64": False}, b'{"sub":"ann"}'),
        signed(PLAIN, b'{"sub":"ann","exp":"9999999999"}'),
        signed(PLAIN, b'{"sub":"ann","exp":1e999}'),
        signed(PLAIN, b'{"sub":"ann","exp":NaN}'),
        signed(PLAIN, b'{"sub":"ann","exp":true}'),
        signed(PLAIN, b'{"sub":"ann","nbf":9999999999}'),
        signed(PLAIN, b'{"sub":42}'),
        signed(PLAIN, b'{"sub":"\\ud800"}'),
        signed(PLAIN, b'{"sub":"ann","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
        signed(PLAIN, b'{"sub":"%b"}' % (b"x" * 40_000)),
        signed(PLAIN, b'{"sub":"ann","channel":"room:1"}'),
    ],
)
def test_what_is_no_token_of_ours(token: str) -> None:
    with pytest.raises(BadToken):
        asyncio.run(ClientTokens(TABLE).connection(token))


@pytest.mark.parametrize("moment", ["0", "-1", "0.0", "1", "-1e308"])
def test_a_token_whose_end_lies_in_the_past_however_far(moment: str) -> None:
    token = signed(PLAIN, b'{"sub":"ann","exp":%b}' % moment.encode())
    with pytest.raises(TokenExpired):
        asyncio.run(ClientTokens(TABLE).connection(token))


@contextlib.contextmanager
def dripping(head: bytes) -> Iterator[tuple[str, list[int]]]:
    """Serve an answer that comes byte by byte for as long as somebody reads; says how often it was asked for."""
    asked: list[int] = []
    done = threading.Event()

    def drip(opened: socket.socket) -> None:
        with opened, contextlib.suppress(OSError):
            opened.sendall(head)
            while not done.wait(0.05):
                opened.sendall(b" ")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                opened, _ = listener.accept()
                asked.append(1)
                threading.Thread(target=drip, args=(opened,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/keys", asked
        finally:
            done.set()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_key_set_that_comes_byte_by_byte(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "_FETCH_SECONDS", 0.5)
    monkeypatch.setattr(token_keys, "_AGAIN_SECONDS", 0.1)

    async def ask(keys: KeySet) -> None:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(KeysAway):
                await asyncio.wait_for(keys.find("some"), 10)
            assert time.monotonic() - began < 3
            await asyncio.sleep(0.15)

    with dripping(head) as (url, asked):
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(ask(KeySet(url)))
            if b"X" in head:
                assert len(asked) == 1, "a fetch that hangs takes one thread, not more and more"
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
PRIVATE = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY)) | {"kid": "now"}
PUBLIC = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key())) | {"kid": "now"}
JUNK: list[object] = [
    1,
    None,
    "x",
    [],
    {},
    {"kty": 5},
    {"kty": "new", "kid": "now"},
    {"kty": "RSA", "kid": "now", "n": 5, "e": "AQAB"},
    {"kty": "RSA", "kid": "now", "n": "!", "e": "AQAB"},
    {"kty": "EC", "kid": "now", "crv": "P-256", "x": "AA", "y": "AA"},
    {"kty": "EC", "kid": "now", "crv": 7, "x": 1, "y": 2},
    {"kty": "oct", "kid": "now", "k": "c2VjcmV0"},
    PUBLIC | {"alg": {"a": 1}, "kid": "other"},
    PUBLIC | {"alg": "HS256", "kid": "other"},
    PUBLIC | {"use": ["sig"], "kid": "other"},
    *({"kty": "new", "kid": str(number)} for number in range(200)),
]
BODY = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
NO_SETS = [
    pytest.param(BODY + text, id=f"body {text[:20]!r}")
    for text in (
        b"",
        b"<html>",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b'{"keys":null}',
        b'{"keys":{"a":1}}',
        b'{"keys":[1,"x",{},{"kty":5},{"kid":"now"}]}',
        b'\xff\xfe{"keys":[]}',
        b"[" * 100_000,
        b'{"keys":[%s]}' % (b"9" * 10_000),
    )
] + [
    pytest.param(answer, id=f"answer {answer[:20]!r}")
    for answer in (
        b"",
        b"GARBAGE\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Away\r\n\r\n",
    )
]


@contextlib.contextmanager
def answering(answers: list[bytes]) -> Iterator[str]:
    """Serve the first of the answers to all who ask."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                opened, _ = listener.accept()
                with opened, contextlib.suppress(OSError):
                    opened.recv(65_536)
                    opened.sendall(answers[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/keys"


def of_key() -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + 600}, KEY, "RS256", headers={"kid": "now"})


@pytest.mark.parametrize("answer", NO_SETS)
def test_what_is_no_key_set_lets_clients_try_again_and_keeps_the_keys(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keys, "_AGAIN_SECONDS", 0.0)
    answers = [answer]

    async def run(url: str) -> None:
        tokens = ClientTokens(TokenTable(jwks_public_endpoint=url))
        with pytest.raises(TemporaryFailure):
            await tokens.connection(of_key())
        answers[0] = BODY + json.dumps({"keys": [*JUNK, PUBLIC]}).encode()
        assert (await tokens.connection(of_key())).sub == "ann"
        answers[0] = answer
        with pytest.raises(TemporaryFailure):
            await tokens.connection(jwt.encode({"sub": "ann"}, KEY, "RS256", headers={"kid": "made up"}))
        assert (await tokens.connection(of_key())).sub == "ann"

    with answering(answers) as url:
        asyncio.run(run(url))


@pytest.mark.parametrize(
    "keys", [[], JUNK, [PRIVATE], [PUBLIC | {"use": "enc"}]], ids=["none", "junk", "private", "enc"]
)
def test_a_set_without_a_usable_key_withdraws_the_earlier_ones_and_refuses_nobody_for_good(
    keys: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keys, "_AGAIN_SECONDS", 0.0)
    full = BODY + json.dumps({"keys": [PUBLIC]}).encode()
    answers = [full]
    now = [0.0]

    async def run(url: str) -> None:
        published = KeySet(url, clock=lambda: now[0])
        assert await published.find("now") is not None
        now[0] += 7_200
        answers[0] = BODY + json.dumps({"keys": keys}).encode()
        for seconds in (1, 7_200):
            with pytest.raises(KeysAway):
                await published.find("now")
            now[0] += seconds
        answers[0] = BODY + b"<html>"  # a failure afterwards does not bring them back
        with pytest.raises(KeysAway):
            await published.find("now")
        answers[0] = full
        assert await published.find("now") is not None

    with answering(answers) as url:
        asyncio.run(run(url))
