"""Plain browsers behind the shipped nginx configuration, with the real nginx."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.test_deploy import Proxied, behind_nginx

from contract.serving import Server, until
from requirements import require

pytestmark = pytest.mark.xdist_group("deploy")

QUERY = "cf_connect=" + quote(json.dumps({"subs": {"news": {"recover": True}}}))


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    require(shutil.which("nginx") and shutil.which("openssl"), "apt-get install nginx openssl")
    server = Server(
        tmp_path,
        app=Path(__file__).with_name("stream_app.py"),
        environment={"STORE": f"sqlite:///{tmp_path}/store.db"},
        limits={"drain_seconds": 0.5},
    )
    with server.running(), behind_nginx(server, tmp_path) as found:
        yield found


class EventSource:
    """What a browser does (WHATWG HTML section 9.2): it comes back after the end of a stream, not after an error."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.shown: list[str] = []
        self.failure = ""
        self.opened = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> EventSource:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        retry, last = 3.0, ""
        with httpx.Client(verify=False, timeout=60) as client:
            while not self._stop.is_set() and not self.failure:
                headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
                try:
                    with client.stream("GET", self._url, headers=headers) as answer:
                        kind = answer.headers.get("content-type", "").partition(";")[0]
                        if answer.status_code != 200 or kind != "text/event-stream":
                            self.failure = f"{answer.status_code} {kind}"
                            return
                        self.opened += 1
                        for line in answer.iter_lines():
                            name, _, value = line.partition(": ")
                            if name == "retry":
                                retry = int(value) / 1_000
                            elif name == "id":
                                last = value
                            elif name == "data":
                                self.shown += _texts(json.loads(value))
                except httpx.TransportError:
                    pass
                self._stop.wait(retry)


def _texts(push: dict[str, Any]) -> list[str]:
    """Return the texts of a push: one publication, or what was missed, in the first event of a stream."""
    missed = push.get("connect", {}).get("subs", {}).get("news", {}).get("publications", ())
    return [publication["data"] for publication in (*missed, *([push["pub"]] if "pub" in push else ()))]


def test_an_event_source_survives_a_stop_and_a_start(proxied: Proxied) -> None:
    """It came back into the drain, was answered 502 by nginx, and closed for good; with gzip nothing came at all."""
    base = f"https://127.0.0.1:{proxied.port}"

    def publish(text: str) -> None:
        httpx.post(f"{base}/publish/{text}", verify=False).raise_for_status()

    with EventSource(f"{base}/connection/uni_sse?{QUERY}") as source:
        until(lambda: source.opened or source.failure, what="it is open")
        publish("one")
        until(lambda: source.shown == ["one"] or source.failure, what="a compressed stream brings it at once")
        proxied.server.stop()
        assert httpx.get(f"{base}/anything", verify=False).status_code == 502, "others are told"
        late = EventSource(f"{base}/connection/uni_sse?{QUERY}")  # one that comes while the server is away
        with late:
            until(lambda: late.opened, what="nginx keeps it waiting")
            proxied.server.start()
            publish("two")
            start = time.monotonic()
            until(lambda: source.shown == ["one", "two"] or source.failure, 30, what="it is back, with what it missed")
            until(lambda: late.opened > 1 or late.failure, 30, what="the other one comes back, too")
            assert time.monotonic() - start < 30
        assert (source.failure, late.failure) == ("", "")
