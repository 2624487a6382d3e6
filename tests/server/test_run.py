"""The server as a process: it starts, shares its port, replaces its workers, drains and ends."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.server.live_server import LiveServer, end, tidewire, wait_for
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tidewire.errors import ConfigurationError
from tidewire.server.load_faults import mistakes_in_one_line

WORKERS = ("--workers", "2")

APP = """
import asyncio, os, resource
from fastapi import FastAPI, WebSocket

app = FastAPI()

@app.get("/pid")
async def pid():
    return os.getpid()

@app.get("/slow")
async def slow(seconds: float):
    await asyncio.sleep(seconds)
    return "done"

@app.get("/stubborn")
async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass

@app.get("/files")
async def files():
    return resource.getrlimit(resource.RLIMIT_NOFILE)

@app.get("/where")
async def where():
    return os.getcwd()
"""


def app_in(folder: Path, source: str = APP) -> tuple[str, ...]:
    (folder / "main.py").write_text(source)
    return ("run", "main:app")


HUB = """
from fastapi import FastAPI
from tidewire import Hub

hub = Hub("{}")
app = FastAPI(lifespan=hub.lifespan)
"""

UNLUCKY = """
from fastapi import FastAPI

async def fail(app):
    raise ValueError("no luck")
    yield

app = FastAPI(lifespan=fail)
"""


def answers(server: LiveServer) -> bool:
    try:
        return server.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def pids(server: LiveServer, wanted: int) -> set[int]:
    """Return the workers that answer, as soon as there are so many."""
    seen: set[int] = set()

    def enough() -> bool:
        seen.add(server.get("/pid").json())
        return len(seen) >= wanted

    wait_for(enough, what=f"answers of {wanted} workers")
    return seen


def refused(server: LiveServer) -> bool:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    try:
        socket.create_connection((parts.hostname, parts.port or 0), timeout=5).close()
    except OSError:
        return True
    return False


def complaints(server: LiveServer) -> list[str]:
    """Return the lines of the log beside those that say that the process serves, stops and has stopped."""
    return [line for line in server.err.splitlines() if " INFO " not in line]


def test_it_says_one_line_and_ends_cleanly(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        assert answers(server)
        line = server.out.strip()
        assert line.startswith("tidewire ")
        assert line.endswith("· sqlite:///tidewire.db · 1 worker · Ctrl+C to stop")
        assert server.stop(10) == 0
        assert server.out.strip() == line
        assert complaints(server) == []
        assert refused(server)


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert complaints(server) == []


def test_workers_share_the_port_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    with LiveServer(tmp_path, *WORKERS, command=app_in(tmp_path)) as server:
        assert f" · 2 workers of process {server.process.pid} · " in server.out
        before = pids(server, 2)
        assert before == set(server.workers())
        killed = before.pop()
        end(killed, signal.SIGKILL)
        wait_for(lambda: len(server.workers()) == 2 and killed not in server.workers(), what="another worker")
        assert pids(server, 2) >= before
        assert server.stop(10) == 0


def test_a_supervisor_loads_nothing_that_only_workers_need() -> None:
    code = "import sys, tidewire.server.run; sys.exit('fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_frozen_worker_is_replaced(tmp_path: Path) -> None:
    with LiveServer(tmp_path, *WORKERS, "--worker-seconds", "1.5", command=app_in(tmp_path)) as server:
        frozen = pids(server, 2).pop()
        end(frozen, signal.SIGSTOP)
        begin = time.monotonic()
        wait_for(lambda: frozen not in server.workers(), what="the end of the frozen worker")
        assert time.monotonic() - begin < 10
        wait_for(lambda: len(server.workers()) == 2, what="another worker")
        assert frozen not in pids(server, 2)
        assert "says nothing any more" in server.err


def test_workers_are_replaced_one_after_another_on_sighup(tmp_path: Path) -> None:
    with LiveServer(tmp_path, *WORKERS, command=app_in(tmp_path)) as server:
        before = pids(server, 2)
        server.process.send_signal(signal.SIGHUP)
        refusals = 0

        def replaced() -> bool:
            nonlocal refusals
            try:
                server.get("/pid")
            except httpx.ConnectError:
                refusals += 1
            except httpx.TransportError:
                pass  # a request that had reached a worker as it ended
            return not before & set(server.workers()) and len(server.workers()) == 2

        wait_for(replaced, what="new workers")
        assert refusals == 0
        assert not pids(server, 2) & before
        assert server.stop(10) == 0


def test_a_broken_release_leaves_the_old_workers_in_place(tmp_path: Path) -> None:
    with LiveServer(tmp_path, *WORKERS, command=app_in(tmp_path)) as server:
        before = pids(server, 2)
        app_in(tmp_path, UNLUCKY)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the old ones stay: the application did not start: ValueError: no luck" in server.err)
        assert pids(server, 2) == before
        app_in(tmp_path)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(server.workers()) == 2 and not before & set(server.workers()), what="new workers")
        assert server.stop(10) == 0


def test_a_worker_that_cannot_be_replaced_does_not_end_the_other_one(tmp_path: Path) -> None:
    with LiveServer(tmp_path, *WORKERS, command=app_in(tmp_path)) as server:
        killed, left = pids(server, 2)
        app_in(tmp_path, UNLUCKY)
        end(killed, signal.SIGKILL)
        wait_for(lambda: server.err.count("others go on serving") >= 3, what="three failed starts")
        assert server.get("/pid").json() == left
        app_in(tmp_path)
        assert len(pids(server, 2)) == 2


def test_a_worker_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    with LiveServer(tmp_path, *WORKERS, command=app_in(tmp_path)) as server:
        workers = pids(server, 2)
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(_runs(worker) for worker in workers), seconds=15, what="the end of the workers")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_cannot_start_ends_the_server_in_one_line(tmp_path: Path) -> None:
    ended = tidewire(*app_in(tmp_path, UNLUCKY), "--port", "0", *WORKERS, folder=tmp_path)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2
    assert "http://" not in ended.stdout + ended.stderr  # no address where nothing serves
    assert last == "error: workers could not start 3 times in a row: the application did not start: ValueError: no luck"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_work_is_one_line_also_from_a_worker(tmp_path: Path, workers: str) -> None:
    broker = "sqlite:///missing/tidewire.db"
    ended = tidewire("serve", "--port", "0", "--broker", broker, "--workers", workers, folder=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "error: missing/tidewire.db" in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import own", "ValueError: 'own' is no number (own.py, line 2)"),
        ("import nothing", "ModuleNotFoundError: No module named 'nothing' (main.py, line 1)"),
        ("\napp = FastAPI(", "SyntaxError: '(' was never closed (main.py, line 2)"),
        ("def app():\n    return nothing", "NameError: name 'nothing' is not defined (main.py, line 2)"),
        ("import tidewire\ntidewire.Hub('mysql://h')", "or nats://host:4222 (main.py, line 2)"),
        ("import ast\nast.literal_eval('1 +')", "SyntaxError: invalid syntax (<unknown>, line 1) (main.py, line 2)"),
    ],
)
def test_a_fault_in_the_module_is_one_line_with_its_place(tmp_path: Path, source: str, said: str, workers: str) -> None:
    (tmp_path / "own.py").write_text("\nraise ValueError(\"'own' is no number\")")
    arguments = (*app_in(tmp_path, source), "--port", "0", "--workers", workers)
    ended = tidewire(*arguments, folder=tmp_path)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(said)
    assert "Traceback" in tidewire(*arguments, "--log-level", "debug", folder=tmp_path).stderr


def test_a_module_beside_the_packages_of_its_python_is_the_applications_own() -> None:
    """A virtual environment is made in the application's folder, or /usr/src/app lies under a Python's /usr."""
    module = compile("raise ValueError('no luck')", str(Path(sys.prefix, "src", "app", "main.py")), "exec")
    with pytest.raises(ConfigurationError, match=r"no luck \(.*main\.py, line 1\)$"), mistakes_in_one_line("main:app"):
        exec(module)


MAKERS = "def create_app(of=0):\n    return app\n\nmade = functools.partial(create_app, 1)\n"
FACTORY = APP.replace("app = FastAPI()", f"import functools\n\n{MAKERS}app = FastAPI()")


@pytest.mark.parametrize(("workers", "name"), [("1", "made"), ("2", "create_app")])
def test_a_function_that_makes_the_application_is_called(tmp_path: Path, workers: str, name: str) -> None:
    (tmp_path / "main.py").write_text(FACTORY)
    with LiveServer(tmp_path, "--workers", workers, command=("run", f"main:{name}")) as server:
        assert httpx.get(server.url + "/pid").status_code == 200


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (HUB.format("memory://"), "2 workers cannot share 'memory://'"),
        ("app = 3", "main:app is int, not an ASGI application"),
        ("def app(needed): ...", "factory is a plain function without arguments"),
        ("async def app(): ...", "factory is a plain function without arguments"),
        ("async def app(scope, receive, send): raise OSError('no')", "the application did not start"),
    ],
)
def test_what_workers_cannot_serve_is_said(tmp_path: Path, source: str, said: str) -> None:
    done = tidewire(*app_in(tmp_path, source), "--port", "0", *WORKERS, folder=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


LIMITED = """
from fastapi import FastAPI, WebSocket
from tidewire import Hub

hub = Hub("sqlite:///hub.db", limits={"message_size": 1_000, "drain_seconds": 7})
app = FastAPI(lifespan=hub.lifespan)

@app.get("/limits")
async def limits():
    return hub.node.limits.rate, hub.node.limits.message_size, hub.limits.drain_seconds

@app.websocket("/ws")
async def echo(websocket: WebSocket):
    async with hub.connect(websocket) as connection:
        async for text in connection.iter_text():
            await connection.send(text)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_limits_of_a_hub_and_of_the_command_are_one_truth(tmp_path: Path, workers: str) -> None:
    """Each was ignored by half: the size by the server, the rate by the hub."""
    flags = ("--limit", "rate=7", "--limit", "drain_seconds=0.1", "--workers", workers)
    with LiveServer(tmp_path, *flags, command=app_in(tmp_path, LIMITED)) as server:
        assert httpx.get(f"{server.url}/limits").json() == [7, 1_000, 0.1]

        async def main() -> None:
            async with connect(f"{server.websocket_url}/ws") as client:
                await client.send("x" * 900)
                assert await client.recv() == "x" * 900
                await client.send("x" * 1_100)
                with pytest.raises(ConnectionClosed, match="1009"):
                    await client.recv()

        asyncio.run(main())


VERSION = """
from fastapi import FastAPI
from tidewire import Hub

hub = Hub("memory://")
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router())

@app.get("/version")
async def version():
    return {}
"""


def test_a_change_of_a_file_starts_it_again(tmp_path: Path) -> None:
    """With an open EventSource, `--reload` of stock uvicorn hung; `tidewire run` had none."""
    with LiveServer(tmp_path, "--reload", command=app_in(tmp_path, VERSION.format(1))) as server:

        def version() -> int:
            try:
                return int(httpx.get(f"{server.url}/version", timeout=5).json())
            except httpx.TransportError:
                return 0

        wait_for(lambda: version() == 1, what="it answers")
        with httpx.stream("GET", f"{server.url}/connection/uni_sse?cf_connect=%7B%7D", timeout=30) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if "connect" in line)
            app_in(tmp_path, VERSION.format("broken("))
            assert list(lines)[-2:], "the stream ends"
        wait_for(lambda: "SyntaxError" in server.err, what="a file that cannot be read is shown")
        app_in(tmp_path, VERSION.format(22))
        wait_for(lambda: version() == 22, what="the new version serves")
        assert server.stop(10) == 0


def test_reload_is_for_one_worker(tmp_path: Path) -> None:
    done = tidewire(*app_in(tmp_path), "--reload", "--port", "0", *WORKERS, folder=tmp_path)
    assert "--reload is for one worker, not 2; write --workers 1" in done.stderr


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = tidewire("serve", "--port", str(taken.getsockname()[1]), folder=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "is taken; stop the program that listens there" in ended.stderr


def test_a_file_of_the_folder_does_not_take_the_place_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('the wrong uvicorn')")
    with LiveServer(tmp_path, *WORKERS, command=app_in(tmp_path)) as server:
        assert server.get("/where").json() == str(tmp_path)


def test_requests_under_way_are_finished_when_it_ends(tmp_path: Path) -> None:
    async def run(server: LiveServer) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            slow = asyncio.create_task(client.get(server.url + "/slow?seconds=1.5"))
            await asyncio.to_thread(wait_for, lambda: server.get("/pid").status_code == 200)
            server.process.terminate()
            assert (await slow).json() == "done"
        assert await asyncio.to_thread(server.process.wait, 10) == 0

    with LiveServer(tmp_path, command=app_in(tmp_path)) as server:
        asyncio.run(run(server))


@pytest.mark.slow
def test_a_handler_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    limit = ("--limit", "drain_seconds=0.5")

    async def run(server: LiveServer) -> float:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        writer.write(b"GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        await asyncio.to_thread(server.get, "/pid")
        begin = time.monotonic()
        server.process.terminate()
        await asyncio.to_thread(server.process.wait, 10)
        writer.close()
        return time.monotonic() - begin

    with LiveServer(tmp_path, *limit, command=app_in(tmp_path)) as server:
        assert asyncio.run(run(server)) < 0.5 + 5 + 1


async def _closed(websocket: ClientConnection, begin: float) -> tuple[float, int]:
    try:
        async for _ in websocket:
            pass
    except ConnectionClosed:
        pass
    assert websocket.close_code is not None
    return time.monotonic() - begin, websocket.close_code


@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_tells_everybody_to_come_back_spread_over_its_time(tmp_path: Path, workers: int) -> None:
    drain, clients = 2.0, 40
    arguments = ("--workers", str(workers), "--limit", f"drain_seconds={drain}")

    async def run(server: LiveServer) -> None:
        websockets = [await connect(f"{server.websocket_url}/ws/{number}") for number in range(clients)]
        for websocket in websockets:
            await websocket.send("here")
        await asyncio.gather(*[websocket.recv() for websocket in websockets])
        begin = time.monotonic()
        server.process.terminate()
        closing = asyncio.gather(*[_closed(websocket, begin) for websocket in websockets])
        await asyncio.to_thread(wait_for, lambda: refused(server), seconds=drain)
        ends = await closing
        assert {code for _, code in ends} == {1012}
        # Spread: not all go at its begin. A machine that stands still only makes them later.
        assert drain / 4 < max(when for when, _ in ends) < drain + 8
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert time.monotonic() - begin < drain + 15

    with LiveServer(tmp_path, *arguments) as server:
        asyncio.run(run(server))


def test_the_number_of_open_files_is_raised(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = LiveServer(tmp_path, command=app_in(tmp_path))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard - 1), hard))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert server.get("/files").json() == [hard, hard]
    finally:
        server.__exit__(None, None, None)


def test_tls(tmp_path: Path) -> None:
    certificate(tmp_path)
    with LiveServer(tmp_path, "--tls-cert", "cert.pem", "--tls-key", "key.pem") as server:
        assert server.url.startswith("https://")
        assert server.get("/healthz", verify=False).status_code == 200
    ended = tidewire("serve", "--port", "0", "--tls-cert", "key.pem", "--tls-key", "cert.pem", folder=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "give a PEM certificate chain" in ended.stderr


def certificate(folder: Path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*private))
