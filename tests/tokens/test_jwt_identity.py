"""A JWT in every form in which clients present one, tickets that are good once, and connections that expire."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi import Depends, FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from helpers.hubs import Application, receive, run, serving
from helpers.stores import start_redis
from tidewire import ConfigurationError, Hub, Identity, JwtIdentity, PermissionDenied, Tickets
from tidewire.testing import wait_until

SECRET = "a secret that is long enough for SHA-256"


def signed(user: str = "ann", *, seconds: float = 60.0, secret: str = SECRET, **claims: Any) -> str:
    now = time.time()
    return jwt.encode({"sub": user, "iat": now, "exp": now + seconds, **claims}, secret, "HS256")


def application(url: str = "memory://", **options: Any) -> tuple[Hub, FastAPI]:
    """Return an application that answers with the user of a client, and makes tickets."""
    hub = Hub(url, origins=["https://ours.example"])
    tickets = Tickets(hub, SECRET)
    identity = JwtIdentity(SECRET, cookie="session", origins=["https://ours.example"], tickets=tickets, **options)
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=identity))

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket, who: Identity = Depends(identity)) -> None:
        chosen = "ours" if "ours" in websocket.scope["subprotocols"] else None
        async with hub.connect(websocket, user=who, subprotocol=chosen) as one:
            await one.send_text(f"{one.user} {sorted(who.context or ())}")
            async for token in one.iter_text():
                found = await identity.authenticate(token)
                try:
                    one.refresh(found or Identity(), notice={"expiring": True}, grace=1.0)
                    await one.send_text("refreshed")
                except PermissionDenied:
                    await one.send_text("no")

    @app.post("/ticket")
    async def ticket(who: Identity = Depends(identity)) -> str:
        return await tickets.issue(who)

    return hub, app


async def answer(running: Application, path: str = "/ws", **options: Any) -> str:
    async with running.open(path, **options) as client:
        return str(await receive(client))


async def refusal(running: Application, path: str = "/ws", **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await answer(running, path, **options)
    return caught.value.response.status_code


def test_every_form_of_a_token(caplog: pytest.LogCaptureFixture) -> None:
    hub, app = application()

    async def main() -> None:
        async with serving(hub, app) as running:
            token = signed(role="admin")
            assert await answer(running, f"/ws?token={token}") == "ann ['exp', 'iat', 'role', 'sub']"
            for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"session={token}"}):
                assert (await answer(running, additional_headers=headers)).startswith("ann")
            for origin in (f"http://127.0.0.1:{running.port}", "https://ours.example"):
                assert (await answer(running, additional_headers=headers, origin=origin)).startswith("ann")
            assert await refusal(running, additional_headers=headers, origin="https://evil.example") == 401
            async with running.open("/ws", subprotocols=[f"bearer.{token}", "ours"]) as client:
                assert client.subprotocol == "ours"
                assert str(await receive(client)).startswith("ann")
            assert await refusal(running) == 401
            async with httpx.AsyncClient() as client:
                url = f"http://127.0.0.1:{running.port}/ticket"
                none = await client.post(url)
                assert (none.status_code, none.headers["www-authenticate"]) == (401, "Bearer")

    run(main())
    assert "eyJ" not in caplog.text


@pytest.mark.parametrize(
    "token",
    [
        signed(seconds=-5),
        signed(secret="another secret that is long enough too"),
        signed(user=""),
        jwt.encode({"sub": "ann"}, SECRET, "HS256"),
        jwt.encode({"sub": "ann", "exp": 9e9}, None, "none"),
        signed(channel="a"),
        "a.b.c",
        "x" * 30_000,
    ],
    ids=["over", "another secret", "no user", "no expiry", "no algorithm", "for a channel", "no token", "long"],
)
def test_tokens_that_open_nothing(token: str) -> None:
    hub, app = application()

    async def main() -> None:
        async with serving(hub, app) as running:
            headers = {"Authorization": f"Bearer {token}"}
            assert await refusal(running, additional_headers=headers) in (401, 431)

    run(main())


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_ticket_is_good_once(store: str, tmp_path: Any) -> None:
    hub, app = application("memory://" if store == "memory" else f"sqlite:///{tmp_path}/a.db")

    async def main() -> None:
        async with serving(hub, app) as running, httpx.AsyncClient() as client:
            headers = {"Authorization": f"Bearer {signed()}"}
            asked = await client.post(f"http://127.0.0.1:{running.port}/ticket", headers=headers)
            ticket = asked.json()

            async def attempt() -> bool:
                try:
                    return (await answer(running, f"/ws?ticket={ticket}")).startswith("ann")
                except InvalidStatus:
                    return False

            assert sum(await asyncio.gather(*[attempt() for _ in range(8)])) == 1
            assert not await attempt()
            assert await refusal(running, f"/ws?ticket={signed()}") == 401, "a token is no ticket"
            assert await refusal(running, f"/ws?token={ticket}") == 401, "a ticket is no token"
            tickets = Tickets(hub, SECRET, seconds=-1)
            assert await refusal(running, f"/ws?ticket={await tickets.issue('ann')}") == 401

    run(main())


def test_an_endpoint_tells_of_expiry_and_goes_on_with_a_newer_token() -> None:
    hub, app = application()

    async def main() -> None:
        async with serving(hub, app) as running:
            async with running.open(f"/ws?token={signed(seconds=30)}") as client:
                await receive(client)
                await client.send(signed("bob"))
                assert await receive(client) == "no"
                await client.send(signed(seconds=1.5))
                assert await receive(client) == "refreshed"
                assert json.loads(await receive(client)) == {"expiring": True}
                await client.send(signed(seconds=1.5))
                assert await receive(client) == "refreshed"
                assert json.loads(await receive(client)) == {"expiring": True}
                with pytest.raises(ConnectionClosed) as closed:
                    await receive(client)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1008
            async with running.open(f"/ws?token={signed(seconds=1.5)}") as client:
                await receive(client)
                with pytest.raises(ConnectionClosed):
                    await receive(client)
            async with running.open(f"/ws?token={signed()}") as client:
                await receive(client)
                await hub.revoke(user="ann")
                with pytest.raises(ConnectionClosed):
                    await receive(client)

    run(main())


def test_a_store_that_was_emptied_makes_no_ticket_good_a_second_time(tmp_path: Path) -> None:
    with start_redis(tmp_path) as redis:
        hub, app = application(f"redis://127.0.0.1:{redis.port}")

        async def main() -> None:
            async with serving(hub, app) as running, httpx.AsyncClient() as client:
                headers = {"Authorization": f"Bearer {signed()}"}

                async def fetch() -> httpx.Response:
                    return await client.post(f"http://127.0.0.1:{running.port}/ticket", headers=headers)

                used, unused = [str((await fetch()).json()) for _ in range(2)]
                assert (await answer(running, f"/ws?ticket={used}")).startswith("ann")
                redis.kill()  # it keeps nothing on disk
                assert await refusal(running, f"/ws?ticket={used}") == 503
                assert (await fetch()).status_code == 503
                redis.start()

                async def is_judged() -> bool:  # the store answers both who reads and who publishes
                    return await refusal(running, f"/ws?ticket={used}") != 503 and (await fetch()).is_success

                await wait_until(is_judged, 30)
                for ticket in (used, unused):  # nobody knows which of them was used
                    assert await refusal(running, f"/ws?ticket={ticket}") == 401
                assert (await answer(running, f"/ws?ticket={(await fetch()).json()}")).startswith("ann")

        run(main())


def test_a_ticket_of_a_worker_of_an_earlier_version_is_good_once() -> None:
    async def main() -> None:
        async with Hub() as hub:
            tickets = Tickets(hub, SECRET)
            claims = jwt.decode(await tickets.issue("ann"), options={"verify_signature": False})
            del claims["epoch"]
            earlier = jwt.encode(claims, hashlib.sha256(b"tidewire ticket\0" + SECRET.encode()).digest(), "HS256")
            identity = await tickets.redeem(earlier)
            assert identity is not None
            assert identity.user == "ann"
            assert await tickets.redeem(earlier) is None

    run(main())


def test_clients_that_choose_their_channels_are_identified_too() -> None:
    hub, app = application(required=False)

    @hub.channel("open:{name}")
    async def channel(name: str, user: str) -> bool:
        return user == "ann"

    async def main() -> None:
        async with serving(hub, app) as running:
            for path, is_in in ((f"?token={signed()}", True), ("", False)):
                async with running.open(f"/connection/websocket{path}") as client:
                    await client.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:a"}}')
                    replies = [json.loads(line) for _ in range(2) for line in str(await receive(client)).splitlines()]
                    assert ("subscribe" in replies[-1]) is is_in

    run(main())


def test_a_token_in_the_protocol_is_verified_by_the_same_keys() -> None:
    hub, app = application(required=False)
    hub.authenticate(JwtIdentity(SECRET).authenticate)

    async def main() -> None:
        async with serving(hub, app) as running:
            soon = int(time.time()) + 60
            for token, told in (
                (signed(), "connect"),
                (signed(exp=1), "error"),
                (signed(nbf=soon), "error"),
                ("x", ""),
            ):
                async with running.open("/connection/websocket") as client:
                    await client.send(json.dumps({"id": 1, "connect": {"token": token}}))
                    if told:
                        assert told in (reply := json.loads(str(await receive(client))))
                        assert reply.get("error", {"code": 109})["code"] == 109  # fetch another
                        if told == "connect":
                            await client.send(json.dumps({"id": 2, "refresh": {"token": signed()}}))
                            assert "refresh" in json.loads(str(await receive(client)))
                    else:
                        with pytest.raises(ConnectionClosed) as closed:
                            await receive(client)
                        assert closed.value.rcvd is not None
                        assert closed.value.rcvd.code == 3500

    run(main())


def test_what_cannot_work_is_refused() -> None:
    odd: dict[str, Any] = dict.fromkeys(("secret", "previous_secret", "query", "cookie", "jwks", "user_claim"), 12_345)
    odd |= {"rsa_public_key": 5, "audience": ["a"], "issuer": 1, "require_exp": "perhaps", "leeway": "soon"}
    for name, value in odd.items():
        with pytest.raises(ConfigurationError, match=rf"^JwtIdentity\({name}=…\)[^\n]*$") as caught:
            JwtIdentity(**({"secret": SECRET} | {name: value}))
        assert "12345" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="needs a key"):
        JwtIdentity()
    with pytest.raises(ConfigurationError, match="32 or more"):
        Tickets(Hub(), "short")
