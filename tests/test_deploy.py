"""The shipped nginx configuration, with the real nginx and TLS, in front of the real server."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from contract.serving import Server, free_port, until
from requirements import require
from tidewire.client import ChatClient, History

DEPLOY = Path(__file__).parents[1] / "deploy"
NAME = "chat.example.org"

pytestmark = pytest.mark.xdist_group("deploy")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    require(shutil.which("nginx") and shutil.which("openssl"), "apt-get install nginx openssl")


class Proxied:
    """The server, and nginx in front of it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.port = free_port()
        self.certificate = folder / "fullchain.pem"
        self.tls = ssl.create_default_context()

    def configure(self) -> Path:
        key = self.folder / "privkey.pem"
        subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(key), "-out", str(self.certificate), "-days", "2"]
        subprocess.run([*command, *files, *subject], check=True, capture_output=True)
        self.tls.load_verify_locations(self.certificate)
        site = (DEPLOY / "nginx.conf").read_text()
        changes = {
            "127.0.0.1:8000": f"127.0.0.1:{self.server.port}",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            f"/etc/letsencrypt/live/{NAME}/": f"{self.folder}/",
            "/var/log/nginx/": f"{self.folder}/",
        }
        for old, new in changes.items():
            assert old in site
            site = site.replace(old, new)
        whole = self.folder / "whole.conf"
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole.write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;\n"
            f"worker_processes 1;\nevents {{}}\nhttp {{\n{temporary}{site}\n}}\n"
        )
        return whole

    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"

    def options(self) -> dict[str, object]:
        return {"host": "127.0.0.1", "port": self.port, "ssl": self.tls, "proxy": None}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("nginx")
    with Server(folder, "--access-log", broker=f"sqlite:///{folder}/store.db").running() as server:
        found = Proxied(server, folder)
        process = subprocess.Popen(
            ["nginx", "-c", str(found.configure()), "-p", str(folder)], stderr=subprocess.DEVNULL
        )
        try:
            until(lambda: _answers(found), what="nginx answers")
            yield found
        finally:
            process.terminate()
            process.wait(10)


def _answers(proxied: Proxied) -> bool:
    try:
        return httpx.get(f"https://127.0.0.1:{proxied.port}/healthz", verify=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_page_of_the_site_may_connect_and_another_may_not(proxied: Proxied) -> None:
    _, token = proxied.server.sign_up()
    url = f"wss://{NAME}:{proxied.port}/ws/auth?token={token}"

    async def scene() -> None:
        async with connect(url, origin=proxied.origin(), **proxied.options()) as socket:  # type: ignore[arg-type]
            assert "history" in str(await asyncio.wait_for(socket.recv(), 10))
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(url, origin="https://evil.example", **proxied.options()):  # type: ignore[arg-type]
                pass

    asyncio.run(scene())
    until(lambda: "/ws/auth" in (proxied.folder / "tidewire.log").read_text(), what="nginx has logged it")
    logs = (proxied.folder / "tidewire.log").read_text() + proxied.server.log()
    assert token not in logs


def test_messages_pass_both_ways(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = proxied.server.sign_up()
    monkeypatch.setattr("tidewire.client.connect", lambda url, **o: connect(url, **(o | proxied.options())))

    async def scene() -> None:
        async with asyncio.timeout(20), ChatClient(f"wss://{NAME}:{proxied.port}/ws/auth", token) as client:
            async for message in client:
                if isinstance(message, History):
                    break
            assert (await client.send("through nginx" * 1_000)).content == "through nginx" * 1_000

    asyncio.run(scene())


def test_the_clients_address_is_the_one_that_nginx_saw(proxied: Proxied) -> None:
    """Whoever claims another address by a header of their own is not believed."""
    forged = {"X-Forwarded-For": "203.0.113.9"}
    httpx.get(f"https://127.0.0.1:{proxied.port}/healthz", headers=forged, verify=False)
    until(lambda: "GET /healthz" in proxied.server.log(), what="the server has logged it")
    assert "203.0.113.9" not in proxied.server.log()


def test_the_unit_is_one_that_systemd_understands() -> None:
    require(shutil.which("systemd-analyze"), "apt-get install systemd")
    unit = DEPLOY / "tidewire.service"
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "tidewire.service" in line and "executable" not in line]
    assert complaints == []
