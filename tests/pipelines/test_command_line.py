"""`tidewire pipeline`, without a server, and through one."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contract.serving import Server, until
from tidewire.cli import main
from tidewire.pipelines import PipelineLimits
from tidewire.server.pipeline_settings import PipelineTable

_PYTHON = json.dumps([sys.executable, "-I", "-S", "-c"])[1:-1]
DEFINITION = f"""
[inputs.reads]
accept = [".txt"]
[[steps]]
name = "copy"
run = ["cp", "{{reads}}", "{{results}}/copy.txt"]
[[steps]]
name = "say"
run = [{_PYTHON}, "import time; print('\\u001b[31mred'); time.sleep(0.3)"]
[[steps]]
name = "wait"
run = [{_PYTHON}, '''
import os, time
print("waiting", flush=True)
while not os.path.exists("go"): time.sleep(0.02)
''']
"""
COMMAND = (sys.executable, "-P", "-m", "tidewire", "pipeline")


def environment(folder: Path) -> dict[str, str]:
    (folder / "definitions").mkdir()
    (folder / "definitions" / "mine.toml").write_text(DEFINITION)
    (folder / "reads.txt").write_text("reads")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")}
    return kept | {"TIDEWIRE_PIPELINES__FOLDER": "definitions", "COLUMNS": "100"}


def start(folder: Path, variables: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*COMMAND, *arguments], cwd=folder, env=variables, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def done(folder: Path, variables: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = start(folder, variables, *arguments)
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


def started(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().split()[1]


def test_without_a_server(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    code, text = done(tmp_path, variables, "list")
    assert code == 0
    assert {line.split()[0] for line in text.splitlines()} == {"demo", "readqc", "mine"}

    running = start(tmp_path, variables, "run", "mine", "S1", "--input", "reads=reads.txt")
    run = started(running)
    work = tmp_path / "tidewire.db-pipelines" / "runs" / run / "work"
    log = work.parent / "logs" / "wait.log"
    until(lambda: log.exists() and "\nwaiting\n" in log.read_text(), 30, what="the last step runs")
    running.send_signal(signal.SIGINT)
    text, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert f"tidewire pipeline resume {run}" in text
    assert "interrupted" in done(tmp_path, variables, "runs")[1]

    (work / "go").touch()
    code, text = done(tmp_path, variables, "resume", run)
    assert (code, text.splitlines()[-1]) == (0, "finished")
    code, text = done(tmp_path, variables, "log", run, "--step", "say")
    assert code == 0
    assert "red" in text.splitlines()
    assert "\x1b" not in text, "escapes of a terminal are not passed on"
    followed = done(tmp_path, variables, "log", run, "-f")[1]
    assert [line for line in followed.splitlines() if line.startswith("==>")] == [
        "==> copy <==",
        "==> say <==",
        "==> wait <==",
    ]
    assert (work.parent / "results" / "copy.txt").read_text() == "reads"


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for arguments, problem in (
        (("run", "mine", "../S1"), "cannot be used"),
        (("run", "mine", "S1"), "input 'reads' of sample 'S1' is missing"),
        (("run", "mine", "S1", "--input", "reads"), "write it as --input reads=S1.fastq"),
        (("run", "mine", "S1", "--input", "reads=gone.txt"), "there is no file gone.txt"),
        (("run", "nothing", "S1"), "there is no pipeline 'nothing'"),
        (("log", "nothing"), "there is no run 'nothing'"),
        (("runs", "--server", "localhost"), "is no URL"),
        (("runs", "--server", "http://127.0.0.1:1"), "does not answer"),
    ):
        monkeypatch.setattr(sys, "argv", ["tidewire", "pipeline", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        text = "".join(capfd.readouterr())
        assert ended.value.code == 2, text
        assert problem in text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "headers", "body", "problem"),
    [
        (200, {"Content-Type": "text/html"}, b"<h1>Welcome</h1>", "not that of a tidewire server"),
        (200, {}, b"[]", "not that of a tidewire server"),
        (200, {}, b"null", "not that of a tidewire server"),
        (204, {}, b"", "not that of a tidewire server"),
        (302, {"Location": "http://127.0.0.1:1/login"}, b"", "sends its visitors to http://127.0.0.1:1/login"),
    ],
)
def test_an_address_of_something_else_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: int,
    headers: dict[str, str],
    body: bytes,
    problem: str,
) -> None:
    """A website's page was a traceback; a token was sent on to wherever the answer pointed."""

    class Website(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "reads.txt").write_text("reads")
    monkeypatch.chdir(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Website) as website:
        threading.Thread(target=website.serve_forever, daemon=True).start()
        for arguments in (
            ("list",),
            ("runs",),
            ("run", "mine", "S1", "--input", "reads=reads.txt"),
            ("run", "mine", "S1"),
            ("log", "nothing"),
            ("cancel", "nothing"),
            ("resume", "nothing"),
        ):
            there = ("--server", f"http://127.0.0.1:{website.server_port}")
            monkeypatch.setattr(sys, "argv", ["tidewire", "pipeline", *arguments, *there])
            with pytest.raises(SystemExit) as ended:
                main()
            text = "".join(capfd.readouterr())
            assert (ended.value.code, len(text.splitlines())) == (2, 1), text
            assert problem in text
        website.shutdown()


def test_through_a_server(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    settings = {"TIDEWIRE_PIPELINES__FOLDER": "definitions"}
    with Server(tmp_path, broker="sqlite:///tidewire.db", environment=settings).running() as server:
        there = ("--server", f"http://127.0.0.1:{server.port}")
        running = start(tmp_path, variables, "run", "mine", "S1", "--input", "reads=reads.txt", *there)
        run = started(running)
        results = tmp_path / "tidewire.db-pipelines" / "runs" / run / "results" / "copy.txt"
        until(results.exists, 30, what="the first step has run")
        again = done(tmp_path, variables, "runs", *there)[1]
        assert run in again
        code, text = done(tmp_path, variables, "cancel", run)  # beside the server, on the same folder
        assert (code, text) == (0, f"run {run} is cancelled\n")
        running.communicate(timeout=30)
        assert running.returncode == 1
        code, text = done(tmp_path, variables, "resume", "nothing", *there)
        assert code == 2
        assert "there is no run 'nothing'" in text


def test_a_terminal_shows_a_bar_for_each_step(tmp_path: Path) -> None:
    variables = environment(tmp_path) | {"TERM": "xterm"}
    ours, theirs = pty.openpty()
    command = [*COMMAND, "run", "demo", "S1"]
    process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65_536):
            shown += data
    except OSError:
        pass  # the terminal has ended with its program
    os.close(ours)
    assert process.wait(30) == 0
    text = shown.decode()
    for title in ("Make the reads", "Quality control", "Count k-mers", "Assembly"):
        assert title in text
    assert "100%" in text
    assert "finished" in text


def test_the_settings_are_the_limits() -> None:
    assert PipelineTable().limits == PipelineLimits()
    assert set(PipelineLimits.__struct_fields__) <= set(PipelineTable.model_fields)


def test_a_file_that_is_too_big_for_the_server_is_told_so(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    (tmp_path / "big.txt").write_bytes(bytes(8_000_000))
    served = {"TIDEWIRE_PIPELINES__FOLDER": "definitions", "TIDEWIRE_PIPELINES__UPLOAD_BYTES": "1000"}
    with Server(tmp_path, broker="sqlite:///hub.db", environment=served).running() as server:
        for file, problem in (("big.txt", "limit upload_bytes"), ("definitions/mine.toml", "does not end with .txt")):
            code, text = done(
                tmp_path,
                variables,
                "run",
                "mine",
                "S1",
                "--input",
                f"reads={file}",
                "--server",
                f"http://127.0.0.1:{server.port}",
            )
            assert (code, problem in text) == (2, True), text
