"""Memory that runs out: who comes is refused with words, who is inside goes on, nothing is killed."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from engine.support import run
from requirements import require

from .crowd import KEY, Crowd
from .serving import serving

MIB = 1_048_576
#: What one process may hold before newcomers are refused, and what the kernel lets it ask for.
WATERMARK, ADDRESSES = 160 * MIB, 4_096 * MIB


def test_over_the_watermark_newcomers_are_refused_and_those_inside_go_on(tmp_path: Path) -> None:
    require(shutil.which("prlimit"), "apt-get install util-linux")
    limits, prefix = {"memory_bytes": WATERMARK}, ("prlimit", f"--as={ADDRESSES}")
    with serving(tmp_path / "run", "memory://", workers=1, limits=limits, prefix=prefix) as server:

        async def scenario() -> None:
            crowd = Crowd(server, followers=5, chatters=2)
            async with crowd.following(), crowd.publishing(1, 0.05):
                await crowd.succeeds(5)
                await asyncio.to_thread(fill)
                await crowd.succeeds(5)
                answer = await refusal()
                assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
                assert f"the limit memory_bytes is {WATERMARK}" in answer.body.decode()
                assert server.http.get("/healthz").status_code == 200
                await crowd.succeeds(5)
            await crowd.check()
            assert len(await crowd.present()) <= 5

        async def refusal() -> Response:
            """Come until refused: how much memory there is was read a second ago at most."""
            async with asyncio.timeout(10):
                while True:
                    try:
                        async with connect(server.url("/connection/websocket"), proxy=None):
                            await asyncio.sleep(0.1)
                    except InvalidStatus as refused:
                        return refused.response

        def fill() -> None:
            """Publish elsewhere, in channels that keep it, until the process holds more than it should."""
            channels = itertools.count()
            while server.resident() * MIB < WATERMARK + 16 * MIB:
                orders = [{"publish": {"channel": f"fault:{next(channels)}", "data": "x" * 60_000}} for _ in range(20)]
                server.http.post("/api/batch", json={"commands": orders}, headers=KEY).raise_for_status()

        run(scenario(), 60)
