from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tidewire.errors import ConfigurationError, PermissionDenied, Rejected, TemporaryFailure, TokenExpired
from tidewire.rules.base import Caller, ConnectAttempt, Grant, Identity
from tidewire.server.client_settings import ClientTable
from tidewire.server.namespace_authority import NamespaceAuthority
from tidewire.server.namespaces import ChannelTable, Namespaces
from tidewire.tokens.client_tokens import BadToken, ClientTokens
from tidewire.tokens.token_keys import KeysAway, KeySet
from tidewire.tokens.token_settings import TokenTable

SECRET = "a secret that is long enough for every hash, even for SHA-512: 64 bytes"
RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
ANN = Caller("c1", Identity("ann"))


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=headers or None)


def tokens(**table: Any) -> ClientTokens:
    return ClientTokens(TokenTable.model_validate({"hmac_secret_key": SECRET} | table))


def authority(**token: Any) -> NamespaceAuthority:
    client = ClientTable.model_validate({"token": {"hmac_secret_key": SECRET} | token})
    table = {"namespaces": [{"name": "news", "history_size": 5, "history_ttl": 60}]}
    return NamespaceAuthority(client, Namespaces(ChannelTable.model_validate(table)))


def connect(claims: dict[str, Any], **token: Any) -> Identity:
    return asyncio.run(authority(**token).connect(ConnectAttempt(token=sign(claims)), None))


def refused_with(attempt: Any) -> int:
    """Return the code that ends the connection."""
    with pytest.raises(Rejected) as caught:
        asyncio.run(attempt)
    return caught.value.disconnect.code


def subscribe(claims: dict[str, Any], channel: str = "news:1", caller: Caller = ANN) -> Grant:
    return asyncio.run(authority().subscribe(caller, channel, sign(claims), b""))


def test_a_connection_token_says_who_it_is() -> None:
    identity = connect({"sub": "ann", "exp": 4_000_000_000, "info": {"name": "Ann", "size": 1.0}})
    assert (identity.user, identity.expires_at) == ("ann", 4_000_000_000)
    assert identity.info == b'{"name":"Ann","size":1.0}'
    assert connect({}).user == ""
    assert connect({"sub": "ann", "b64info": base64.b64encode(b"[1]").decode()}).info == b"[1]"


def test_expire_at_is_for_the_connection_alone() -> None:
    assert connect({"sub": "a", "exp": 4_000_000_000, "expire_at": 0}).expires_at is None
    assert connect({"sub": "a", "expire_at": 3_000_000_000}).expires_at == 3_000_000_000


def test_subscriptions_of_the_server() -> None:
    assert list(connect({"channels": ["news:1", "x"]}).subscriptions) == ["news:1", "x"]
    subs = {"news:2": {"info": {"a": 1}, "data": [2], "override": {"presence": {"value": True}}}}
    found = connect({"channels": ["news:1"], "subs": subs}).subscriptions
    assert list(found) == ["news:2"]
    grant = found["news:2"]
    assert (grant.info, grant.data, grant.options.presence, grant.options.history_size) == (b'{"a":1}', b"[2]", True, 5)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_shared_secrets(algorithm: str) -> None:
    claims = asyncio.run(tokens().connection(sign({"sub": "ann"}, algorithm=algorithm)))
    assert claims.sub == "ann"


@pytest.mark.parametrize(
    ("setting", "key", "algorithm"),
    [
        ("rsa_public_key", RSA_KEY, "RS256"),
        ("rsa_public_key", RSA_KEY, "RS512"),
        ("ecdsa_public_key", EC_KEY, "ES256"),
    ],
)
def test_public_keys(setting: str, key: Any, algorithm: str) -> None:
    verifier = tokens(hmac_secret_key="", **{setting: pem(key)})
    assert asyncio.run(verifier.connection(sign({"sub": "ann"}, key, algorithm))).sub == "ann"
    other = rsa.generate_private_key(public_exponent=65_537, key_size=2_048) if key is RSA_KEY else None
    with pytest.raises(BadToken):
        asyncio.run(
            verifier.connection(sign({"sub": "ann"}, other or ec.generate_private_key(ec.SECP256R1()), algorithm))
        )


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_public_key_is_no_shared_secret() -> None:
    text = forged({"alg": "HS256", "typ": "JWT"}, {"sub": "ann"}).rpartition(".")[0]
    signature = hmac.new(pem(RSA_KEY).encode(), text.encode(), hashlib.sha256).digest()
    token = text + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    for table in ({"hmac_secret_key": ""}, {}):
        with pytest.raises(BadToken):
            asyncio.run(tokens(rsa_public_key=pem(RSA_KEY), **table).connection(token))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "PS256", "HS1", None, 5])
def test_other_algorithms_are_refused(algorithm: Any) -> None:
    with pytest.raises(BadToken):
        asyncio.run(tokens(rsa_public_key=pem(RSA_KEY)).connection(forged({"alg": algorithm}, {"sub": "ann"})))


@pytest.mark.parametrize("token", ["", "x", "a.b", "a.b.c", "....", "é.é.é", forged({"alg": "HS256"}, {})])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(BadToken):
        asyncio.run(tokens().connection(token))


@pytest.mark.parametrize(
    "claims",
    [{"sub": 5}, {"exp": "soon"}, {"channels": "x"}, {"subs": []}, {"subs": {"x": 1}}, {"override": 1, "exp": []}],
)
def test_claims_of_wrong_types(claims: dict[str, Any]) -> None:
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, "HS256")
    with pytest.raises(BadToken):
        asyncio.run(tokens().connection(token))


def test_a_token_has_a_size() -> None:
    assert asyncio.run(tokens().connection(sign({"sub": "ann", "info": "x" * 10_000})))
    with pytest.raises(BadToken, match="at most"):
        asyncio.run(tokens().connection(sign({"sub": "ann", "info": "x" * 20_000})))


def test_without_keys_no_token_is_good() -> None:
    assert not TokenTable().has_keys
    assert TokenTable(rsa_public_key="x").has_keys
    with pytest.raises(BadToken):
        asyncio.run(tokens(hmac_secret_key="").connection(sign({"sub": "ann"})))


def test_a_token_without_an_end_can_be_refused() -> None:
    with pytest.raises(BadToken, match="require_exp"):
        asyncio.run(tokens(require_exp=True).connection(sign({"sub": "ann"})))
    claims = {"sub": "ann", "exp": int(time.time()) + 60}
    assert asyncio.run(tokens(require_exp=True).connection(sign(claims))).sub == "ann"


@pytest.mark.parametrize("claim", ["sub", "subs", "channels", "b64info"])
def test_a_claim_that_is_null_is_named_and_the_token_is_not_shown(claim: str) -> None:
    token = sign({"sub": "cid", claim: None})
    with pytest.raises(BadToken, match=claim) as caught:
        asyncio.run(tokens().connection(token))
    assert token not in str(caught.value)
    assert "cid" not in str(caught.value)


def test_a_secret_is_changed_without_refusing_clients() -> None:
    old, new = "the secret of yesterday, long enough", "the secret of today, which is long too"
    both = tokens(hmac_secret_key=new, hmac_previous_secret_key=old)
    for secret in (old, new):
        assert asyncio.run(both.connection(sign({"sub": "ann"}, secret))).sub == "ann"
    with pytest.raises(BadToken):
        asyncio.run(both.connection(sign({"sub": "ann"}, "another secret that is long enough too")))
    with pytest.raises(BadToken):
        asyncio.run(tokens(hmac_secret_key=new).connection(sign({"sub": "ann"}, old)))
    with pytest.raises(ConfigurationError, match="stands alone"):
        tokens(hmac_secret_key="", hmac_previous_secret_key=old)


def test_the_failures_of_a_connection_token() -> None:
    guard = authority()

    def attempt(token: str) -> Any:
        return guard.connect(ConnectAttempt(token=token), None)

    assert refused_with(attempt(sign({"sub": "ann"}, SECRET + "!"))) == 3500
    assert refused_with(attempt(sign({"sub": "ann", "channel": "news:1"}))) == 3500
    with pytest.raises(TokenExpired, match="nbf"):  # it becomes right: the client fetches another
        asyncio.run(attempt(sign({"sub": "ann", "nbf": int(time.time()) + 60})))
    assert asyncio.run(attempt(sign({"sub": "ann", "nbf": time.time() + 0.5}))).user == "ann"
    assert refused_with(attempt(sign({"sub": "ann", "b64info": "?"}))) == 3500
    with pytest.raises(TokenExpired):
        asyncio.run(attempt(sign({"sub": "ann", "exp": int(time.time()) - 1})))
    # expired, and signed by somebody else: nothing is said of its times
    assert refused_with(attempt(sign({"sub": "ann", "exp": 1}, SECRET + "!"))) == 3500


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_of_later_is_not_valid_yet(claim: str) -> None:
    guard, now = authority(), time.time()
    for more in ({}, {"channel": "news:1"}):
        for ahead, refusal in ((2, None), (60, TokenExpired), (86_400, BadToken), (now * 1_000, BadToken)):
            claims = {"sub": "ann", claim: now + ahead} | more
            verify = tokens().subscription if more else tokens().connection
            if refusal is None:
                assert asyncio.run(verify(sign(claims))).sub == "ann"
            else:
                with pytest.raises(refusal, match=claim):
                    asyncio.run(verify(sign(claims)))
    with pytest.raises(TokenExpired, match=claim):  # the client subscribes again by itself
        asyncio.run(guard.subscribe(ANN, "news:1", sign({"sub": "ann", "channel": "news:1", claim: now + 60}), b""))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_time_in_milliseconds_is_said_to_be_one(claim: str) -> None:
    for moment, is_said in ((time.time() * 1_000, True), (time.time() + 86_400, False)):
        with pytest.raises(BadToken) as refusal:
            asyncio.run(tokens().connection(sign({"sub": "ann", claim: moment})))
        assert ("seconds, not milliseconds" in str(refusal.value)) == is_said


def test_anonymous_tokens_may_be_refused() -> None:
    client = ClientTable.model_validate(
        {"token": {"hmac_secret_key": SECRET}, "disallow_anonymous_connection_tokens": True}
    )
    guard = NamespaceAuthority(client, Namespaces(ChannelTable()))
    assert refused_with(guard.connect(ConnectAttempt(token=sign({})), None)) == 3507


def test_audience_and_issuer() -> None:
    assert connect({"sub": "a", "aud": ["x", "chat"]}, audience="chat").user == "a"
    assert connect({"sub": "a", "iss": "https://id.example"}, issuer_regex="https://.*[.]example|x").user == "a"
    for claims in ({"aud": "other"}, {}, {"aud": ["a", "b"]}):
        with pytest.raises(Rejected):
            connect(claims, audience="chat")
    for claims in ({"iss": "other"}, {}, {"iss": "xhttps"}):
        with pytest.raises(Rejected):
            connect(claims, issuer_regex="x|https")
    with pytest.raises(ConfigurationError, match="both set"):
        tokens(audience="a", audience_regex="b")
    with pytest.raises(ConfigurationError, match="no regular expression"):
        tokens(issuer_regex="(")


def test_the_user_may_stand_in_a_claim_of_its_own() -> None:
    assert connect({"sub": "x", "uid": "ann"}, user_id_claim="uid").user == "ann"
    assert connect({"sub": "x"}, user_id_claim="uid").user == ""
    with pytest.raises(Rejected):
        connect({"uid": 5}, user_id_claim="uid")


def test_a_short_secret_is_told_of_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    tokens(hmac_secret_key="secret")
    assert "client.token.hmac_secret_key has 6 characters" in caplog.text
    caplog.clear()
    tokens()
    assert not caplog.text


def test_a_subscription_token_says_what_may_be_followed() -> None:
    claims = {"sub": "ann", "channel": "news:1", "info": {"role": "host"}, "data": 1, "exp": 4_000_000_000}
    grant = subscribe(claims | {"override": {"force_recovery": {"value": True}}})
    assert (grant.info, grant.data, grant.expires_at, grant.channel) == (
        b'{"role":"host"}',
        b"1",
        4_000_000_000,
        "news:1",
    )
    assert grant.options.force_recoverable
    assert subscribe({"sub": "ann", "channel": "news:1", "client": "c1"})
    assert subscribe({"channel": "$news:1"}, "$news:1", Caller("c2", Identity()))


def test_the_failures_of_a_subscription_token() -> None:
    guard = authority()

    def attempt(claims: dict[str, Any], key: str = SECRET) -> Any:
        return guard.subscribe(ANN, "news:1", sign(claims, key), b"")

    good = {"sub": "ann", "channel": "news:1"}
    assert refused_with(attempt(good | {"channel": "news:2"})) == 3500
    assert refused_with(attempt(good | {"sub": "bob"})) == 3500
    assert refused_with(attempt({"channel": "news:1"})) == 3500
    assert refused_with(attempt(good | {"client": "c2"})) == 3500
    with pytest.raises(TokenExpired):
        asyncio.run(attempt(good | {"exp": 1}))
    for bad in (attempt(good, SECRET + "!"), attempt({"sub": "ann"})):
        with pytest.raises(PermissionDenied):
            asyncio.run(bad)


def test_refreshing() -> None:
    guard = authority()
    assert asyncio.run(guard.refresh(ANN, sign({"sub": "ann", "exp": 4_000_000_000}))).expires_at == 4_000_000_000
    assert refused_with(guard.refresh(ANN, sign({"sub": "bob"}))) == 3500
    assert refused_with(guard.refresh(ANN, "x")) == 3500
    token = sign({"sub": "ann", "channel": "news:1", "exp": 4_000_000_000})
    assert asyncio.run(guard.sub_refresh(ANN, "", token)).channel == "news:1"  # old clients name no channel
    assert refused_with(guard.sub_refresh(ANN, "news:2", token)) == 3500
    assert refused_with(guard.sub_refresh(ANN, "news:1", "x")) == 3500
    with pytest.raises(TokenExpired):
        asyncio.run(guard.sub_refresh(ANN, "news:1", sign({"sub": "ann", "channel": "news:1", "exp": 1})))


def test_subscription_tokens_may_have_keys_of_their_own() -> None:
    own = SECRET[::-1]
    client = ClientTable.model_validate(
        {"token": {"hmac_secret_key": SECRET}, "subscription_token": {"enabled": True, "hmac_secret_key": own}}
    )
    guard = NamespaceAuthority(client, Namespaces(ChannelTable()))
    claims = {"sub": "ann", "channel": "x"}
    assert asyncio.run(guard.subscribe(ANN, "x", sign(claims, own), b""))
    with pytest.raises(PermissionDenied):
        asyncio.run(guard.subscribe(ANN, "x", sign(claims), b""))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("rsa_public_key", "-----BEGIN"),
        ("rsa_public_key", pem(EC_KEY)),
        ("ecdsa_public_key", pem(RSA_KEY)),
        ("ecdsa_public_key", pem(ED_KEY)),
        (
            "rsa_public_key",
            RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        ),
        ("jwks_public_endpoint", "example.org"),
    ],
    ids=["cut", "EC for RSA", "RSA for EC", "Ed25519 for EC", "private", "no URL"],
)
def test_keys_that_cannot_work_are_refused_and_not_shown(setting: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tokens(**{setting: text})
    assert "MII" not in str(caught.value)


def test_secrets_are_not_printed() -> None:
    assert SECRET not in repr(TokenTable.model_validate({"hmac_secret_key": SECRET}))


class KeyServer:
    """Publishes a key set, and counts how often it is asked for."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked += 1
                self.send_response(owner.status)
                self.end_headers()
                self.wfile.write(json.dumps({"keys": owner.keys}).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    def publish(self, kid: str, key: Any, **fields: Any) -> None:
        of_kind: dict[type, Any] = {
            rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
            ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
            ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
        }
        algorithm = next(found for kind, found in of_kind.items() if isinstance(key, kind))
        self.keys.append(json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid} | fields)

    @contextmanager
    def running(self) -> Iterator[KeyServer]:
        thread = Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def test_a_published_key_set() -> None:
    with KeyServer().running() as server:
        server.publish("r", RSA_KEY)
        server.publish("e", EC_KEY)
        server.publish("d", ED_KEY, use="sig")
        server.publish("enc", RSA_KEY, use="enc")
        server.keys.append({"kty": "oct", "kid": "o", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()})

        async def test() -> None:
            verifier = tokens(jwks_public_endpoint=server.url)
            for kid, key, algorithm in (("r", RSA_KEY, "RS384"), ("e", EC_KEY, "ES256"), ("d", ED_KEY, "EdDSA")):
                assert (await verifier.connection(sign({"sub": kid}, key, algorithm, kid=kid))).sub == kid
            for kid, key, algorithm in (
                ("enc", RSA_KEY, "RS256"),
                ("o", SECRET, "HS256"),  # a secret that everybody can read is none
                ("r", EC_KEY, "ES256"),
                ("x", RSA_KEY, "RS256"),
            ):
                # a key that the set does not have may have been published since
                with pytest.raises(BadToken if kid == "r" else TemporaryFailure):
                    await verifier.connection(sign({"sub": "a"}, key, algorithm, kid=kid))
            with pytest.raises(BadToken):
                await verifier.connection(sign({"sub": "a"}, RSA_KEY, "RS256"))
            with pytest.raises(BadToken):
                await verifier.connection(sign({"sub": "a"}))  # with a key set no other key counts
            assert server.asked == 1

        asyncio.run(test())


def test_a_key_set_is_fetched_once_for_many_and_again_for_a_new_key() -> None:
    clock = [0.0]
    with KeyServer().running() as server:
        server.publish("one", RSA_KEY)

        async def test() -> None:
            keys = KeySet(server.url, clock=lambda: clock[0])
            found = await asyncio.gather(*(keys.find("one") for _ in range(20)))
            assert all(found)
            assert server.asked == 1
            server.publish("two", EC_KEY)
            clock[0] = 1
            with pytest.raises(
                KeysAway
            ):  # strangers do not make us ask again and again; a new key is not refused for good
                await keys.find("two")
            assert server.asked == 1
            clock[0] = 11
            assert await keys.find("two") is not None
            assert server.asked == 2
            clock[0] = 4_000
            server.keys.pop()
            assert await keys.find("one") is not None
            assert await keys.find("two") is None  # withdrawn within the hour
            assert server.asked == 3

        asyncio.run(test())


def test_a_key_server_that_is_away() -> None:
    with KeyServer().running() as server:
        server.publish("one", RSA_KEY)

        async def test() -> None:
            clock = [0.0]
            keys = KeySet(server.url, clock=lambda: clock[0])
            assert await keys.find("one") is not None
            server.status = 500
            clock[0] = 4_000
            assert await keys.find("one") is not None  # the known ones stay good
            verifier = tokens(jwks_public_endpoint=server.url)
            with pytest.raises(TemporaryFailure):
                await verifier.connection(sign({"sub": "a"}, RSA_KEY, "RS256", kid="one"))

        asyncio.run(test())
