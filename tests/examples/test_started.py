"""The examples as programs: how they are started, how short they are, and what they name."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from examples.serving import EXAMPLES, Example
from helpers.stores import start_redis

NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/app.py"))
PUBLIC = ("tidewire", "tidewire.client", "tidewire.pipelines")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_uses_the_public_interface(name: str) -> None:
    for path in (EXAMPLES / name).glob("*.py"):
        text = path.read_text()
        assert len([line for line in text.splitlines() if line.strip()]) <= 130, path
        assert text.startswith('"""')
        assert not [module for module in re.findall(r"^from (tidewire\S*) import", text, re.M) if module not in PUBLIC]
    text = (EXAMPLES / name / "app.py").read_text()
    assert f"make example NAME={name}" in text
    assert f'os.environ.get("BROKER", "sqlite:///{name}.db")' in text, "the README says: end it, and nothing is lost"
    assert f"]({name}/app.py)" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize(
    "page", sorted(EXAMPLES.glob("*/page/*")), ids=lambda path: f"{path.parent.parent.name}-{path.name}"
)
def test_a_page_takes_nothing_from_elsewhere_and_text_for_no_html(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"https?://(?!127\.0\.0\.1)", text)
    assert not re.findall(r"innerHTML\s*=\s*`[^`]*\$\{", text)
    if page.suffix == ".html":
        assert 'href="/connection/tidewire.css"' in text
        assert 'name="viewport"' in text


def _healthy(example: Example) -> None:
    try:
        example.start()
    finally:
        example.end(signal.SIGTERM)
    assert "Traceback" not in example.log(), example.log()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tidewire run", "uvicorn"])
@pytest.mark.parametrize("name", NAMES)
def test_an_example_starts_on_memory_and_with_two_workers(name: str, command: str, tmp_path: Path) -> None:
    _healthy(Example(name, tmp_path, broker="memory://", command=command))
    workers = ("--workers", "2") if command == "tidewire run" else ()
    _healthy(Example(name, tmp_path, *workers))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_starts_on_redis(name: str, tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        _healthy(Example(name, tmp_path, "--workers", "2", broker=f"redis://127.0.0.1:{server.port}"))


@pytest.mark.slow
def test_the_python_client_prints_what_rings(tmp_path: Path) -> None:
    example = Example("notifications", tmp_path).start()
    command = [
        sys.executable,
        "-u",
        str(EXAMPLES / "clients" / "python_client.py"),
        "ann",
        f"ws://127.0.0.1:{example.port}",
    ]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "listening for ann\n"
        request = urllib.request.Request(
            f"{example.url}/notify/ann", json.dumps({"title": "hello"}).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        assert client.stdout.readline() == "hello\n"
    finally:
        client.kill()
        client.wait()
        example.end()


@pytest.mark.slow
def test_curl_sends_and_reads(tmp_path: Path) -> None:
    example = Example("notifications", tmp_path).start()
    script = subprocess.Popen([EXAMPLES / "clients" / "curl.sh", example.url, "bob"], stdout=subprocess.PIPE, text=True)
    try:
        assert script.stdout is not None
        assert "listening for bob" in script.stdout.readline()
        lines = iter(script.stdout.readline, "")
        assert any('"subs"' in line or '"connect"' in line or '"bell:bob"' in line for line in lines)
    finally:
        script.kill()
        script.wait()
        example.end()
