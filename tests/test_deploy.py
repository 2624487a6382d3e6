"""The shipped nginx configuration, with the real nginx and TLS, in front of the real server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from contract.serving import Server, free_port, until
from requirements import require
from tidewire.client import ChatClient, History
from tidewire.client.chat_messages import ChatMessage
from tidewire.server.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
NAME = "chat.example.org"
#: What a site may have switched on for all that it serves, streams too.
GZIP = "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;\n"

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
        self.plain_port = free_port()
        self.certificate = folder / "fullchain.pem"
        self.tls = ssl.create_default_context()
        self.nginx: subprocess.Popen[bytes] | None = None

    def nginx_workers(self) -> set[str]:
        assert self.nginx is not None
        pid = self.nginx.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

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
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
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
            f"worker_processes 1;\nevents {{}}\nhttp {{\n{temporary}{GZIP}{site}\n}}\n"
        )
        return whole

    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"

    def options(self) -> dict[str, object]:
        return {"host": "127.0.0.1", "port": self.port, "ssl": self.tls, "proxy": None}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("nginx")
    broker = f"sqlite:///{folder}/store.db"
    with (
        Server(
            folder,
            "--access-log",
            "--allowed-origins",
            f"https://{NAME}",
            broker=broker,
            workers=2,
            limits={"drain_seconds": 1},
        ).running() as server,
        behind_nginx(server, folder) as found,
    ):
        yield found


@contextlib.contextmanager
def behind_nginx(server: Server, folder: Path) -> Iterator[Proxied]:
    """Run nginx as it is shipped, in front of a server."""
    found = Proxied(server, folder)
    process = subprocess.Popen(["nginx", "-c", str(found.configure()), "-p", str(folder)], stderr=subprocess.DEVNULL)
    found.nginx = process
    try:
        until(lambda: _answers(found), what="nginx answers")
        yield found
    finally:
        process.terminate()
        process.wait(10)


def _answers(proxied: Proxied) -> bool:
    try:
        return httpx.get(f"https://127.0.0.1:{proxied.port}/healthz", verify=False).status_code in (200, 404)
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


@pytest.mark.parametrize("path", ["/", "/nothing-there", "/healthz"])
def test_browsers_come_back_by_tls_alone(proxied: Proxied, path: str) -> None:
    answer = httpx.get(f"https://127.0.0.1:{proxied.port}{path}", verify=False)
    assert answer.headers.get_list("strict-transport-security") == ["max-age=15768000"]
    assert answer.headers["server"] == "nginx", "without a version"
    for name in ("x-content-type-options", "referrer-policy", "content-security-policy"):
        assert len(answer.headers.get_list(name)) <= 1


def test_who_comes_without_tls_is_sent_to_the_site_itself(proxied: Proxied) -> None:
    forged = {"Host": "evil.example"}
    answer = httpx.get(f"http://127.0.0.1:{proxied.plain_port}/chat?token=SECRET", headers=forged)
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{NAME}/chat?token=SECRET")
    until(lambda: '"GET /chat" 301' in (proxied.folder / "tidewire.log").read_text(), what="nginx has logged it")
    assert "SECRET" not in (proxied.folder / "tidewire.log").read_text()


def test_a_file_for_a_pipeline_may_be_large(proxied: Proxied) -> None:
    _, token = proxied.server.sign_up()
    url = f"https://127.0.0.1:{proxied.port}/api/pipelines/uploads"
    headers = {"Authorization": f"Bearer {token}"}
    sent = httpx.post(url, params={"name": "S1.fastq"}, content=bytes(3_000_000), headers=headers, verify=False)
    assert sent.status_code == 201, sent.text
    assert sent.json()["size"] == 3_000_000


def test_messages_pass_both_ways(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = proxied.server.sign_up()
    monkeypatch.setattr("tidewire.client.chat_client.connect", lambda url, **o: connect(url, **(o | proxied.options())))

    async def scene() -> None:
        async with asyncio.timeout(20), ChatClient(f"wss://{NAME}:{proxied.port}/ws/auth", token) as client:
            async for message in client:
                if isinstance(message, History):
                    break
            assert (await client.send("through nginx" * 1_000)).content == "through nginx" * 1_000

    asyncio.run(scene())


def _reload_nginx(proxied: Proxied) -> None:
    """Let new workers of nginx take over; the old ones stay for the connections that they have."""
    assert proxied.nginx is not None
    old = proxied.nginx_workers()
    proxied.nginx.send_signal(signal.SIGHUP)
    until(lambda: proxied.nginx_workers() - old, what="nginx has a new worker")


def _reload_tidewire(proxied: Proxied) -> None:
    """Let every worker of the server be replaced, one after another."""
    assert proxied.server.process is not None
    old = set(proxied.server.worker_pids())
    proxied.server.process.send_signal(signal.SIGHUP)
    until(lambda: not old & set(proxied.server.worker_pids()), 40, what="new workers")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("reload", [_reload_nginx, _reload_tidewire])
def test_a_reload_in_mid_traffic_costs_no_message(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch, reload: Callable[[Proxied], None]
) -> None:
    monkeypatch.setattr("tidewire.client.chat_client.connect", lambda url, **o: connect(url, **(o | proxied.options())))
    url, room = f"wss://{NAME}:{proxied.port}/ws/auth", f"room-{reload.__name__}"
    tokens = [proxied.server.sign_up()[1] for _ in range(4)]
    shown: list[list[str]] = [[] for _ in tokens]
    sent: list[str] = []

    async def follow(token: str, texts: list[str], joined: asyncio.Event) -> None:
        async with ChatClient(url, token, room=room) as client:
            async for message in client:
                if isinstance(message, History):
                    assert message.recovered is not False
                    texts += [old.content for old in message.messages]
                    joined.set()
                elif isinstance(message, ChatMessage):
                    texts.append(message.content)

    async def speak(client: ChatClient, enough: asyncio.Event) -> None:
        for number in itertools.count():
            sent.append((await client.send(f"message {number}")).content)
            if enough.is_set() and number > 50:
                return

    async def scene() -> None:
        enough, joined = asyncio.Event(), [asyncio.Event() for _ in tokens[1:]]
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            following = [
                group.create_task(follow(token, texts, event))
                for token, texts, event in zip(tokens[1:], shown[1:], joined, strict=True)
            ]
            for event in joined:
                await event.wait()
            async with ChatClient(url, tokens[0], room=room) as client:
                reading = group.create_task(_read(client))
                speaking = group.create_task(speak(client, enough))
                await asyncio.to_thread(reload, proxied)
                await asyncio.to_thread(reload, proxied)
                enough.set()
                await speaking
                reading.cancel()
            while any(len(texts) < len(sent) for texts in shown[1:]):
                await asyncio.sleep(0.02)
            for task in following:
                task.cancel()
        for texts in shown[1:]:
            assert texts == sent, "each once, in order"

    asyncio.run(scene())


async def _read(client: ChatClient) -> None:
    async for _ in client:
        pass


def test_what_the_other_files_say_exists() -> None:
    """Dockerfile, compose and Traefik: the settings, paths and ports that they name are ours."""
    dockerfile, compose = (DEPLOY / "Dockerfile").read_text(), (DEPLOY / "compose.yaml").read_text()
    for name in re.findall(r"TIDEWIRE_([A-Z_]+)", dockerfile + compose):
        assert name.lower() in Settings.model_fields, name
    for copied in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in copied.split())
    assert "--require-hashes -r requirements.lock -r requirements-stores.lock" in dockerfile
    route = (DEPLOY / "traefik" / "tidewire.yaml").read_text()
    for text in (dockerfile, route):
        assert "/healthz" in text
        assert "8000" in text
    assert "stop_grace_period: 30s" in compose, "longer than the drain"


def test_compose_understands_its_file() -> None:
    require(shutil.which("docker-compose"), "apt-get install docker-compose")
    command = ["docker-compose", "-f", str(DEPLOY / "compose.yaml"), "config"]
    environment = os.environ | {"DOMAIN": "chat.example.org"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment | {"DOMAIN": ""})
    assert "write DOMAIN=chat.example.org" in done.stderr


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
