"""The command line as a person meets it: a real process in an empty folder."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-P", "-m", "tidewire")
GOOD = "correct horse"


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")} | more


def tidewire(folder: Path, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def done(folder: Path, *arguments: str, stdin: str = "", **variables: str) -> str:
    ended = tidewire(folder, *arguments, stdin=stdin, **variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@contextmanager
def tailing(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "tail", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(30, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "tail ended"
    return line.rstrip("\n")


def test_version(tmp_path: Path) -> None:
    assert done(tmp_path, "--version") == "tidewire 0.1.0\n"


@pytest.mark.parametrize("command", ["", "serve", "run", "user", "token", "publish", "tail", "bench"])
def test_help(tmp_path: Path, command: str) -> None:
    assert "--help" in done(tmp_path, *command.split(), "--help")


def test_a_user_from_beginning_to_end(tmp_path: Path) -> None:
    assert done(tmp_path, "user", "add", "Ann", "--password-stdin", stdin=GOOD + "\n") == "added Ann\n"
    assert done(tmp_path, "user", "list").startswith("Ann ")
    token = done(tmp_path, "token", "ann", "--ttl", "60").strip()
    assert token.count(".") == 2
    assert "\n" not in token
    assert done(tmp_path, "user", "remove", "ann").splitlines()[0] == "removed Ann"
    assert done(tmp_path, "user", "list") == ""
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [file for file in files if GOOD in file.read_text(errors="replace")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nonsense", "No such command"),
        ("manual", "`tidewire docs` the pages"),
        ("publsh", "Did you mean 'publish'"),
        ("serve --prot 1", "No such option"),
        ("serve --port x", "'--port'"),
        ("serve --port 99999", "port 99999"),
        ("serve --workers 2 --broker memory://", "or --workers 1"),
        ("serve --broker nonsense", "broker 'nonsense'"),
        ("serve --port 0 --broker kafka://user:s3cret@host", "is not known"),
        ("serve --port 0 --broker redis://[user:s3cret@host", "URL cannot be read"),
        ("serve --limit rate", "has no value"),
        ("serve --limit rate=fast", "rate 'fast'"),
        ("serve --limit speed=1", "speed is not a setting"),
        ("serve --config missing.toml", "missing.toml does not exist"),
        ("serve --host 192.0.2.1 --port 0", "is not an address of this machine"),
        ("serve --tls-cert a.pem", "tls_key is missing"),
        ("serve --accounts missing/a.db --port 0", "missing/a.db"),
        ("run nothing:app --port 0", "nothing:app cannot be loaded"),
        ("run nothing:app --port 0", "in the folder that holds main.py"),
        ("run os:nothing --port 0", "os:nothing cannot be loaded"),
        ("run os:nothing --port 0", "name the application that os has"),
        ("run ./main:app --port 0", "./main:app cannot be loaded"),
        ("run asyncio:sleep --port 0", "factory is a plain function without arguments"),
        ("run json:JSONDecoder --port 0", "factory is a plain function without arguments"),
        ("run os:sep --port 0", "is str, not an ASGI application"),
        ("run os --port 0", "write it as main:app"),
        ("user add", "Missing argument"),
        ("user add ann", "--password-stdin"),
        ("user add a/b --password-stdin", "1 to 32 letters"),
        ("user add ann --password-stdin", "at least 8 characters"),
        ("user remove ann", "there is no user 'ann'"),
        ("token ann", "there is no user 'ann'"),
        ("token ann --ttl 0", "'--ttl'"),
        ("publish room:lobby {", "is not JSON"),
        ("publish room:lobby 1 --broker memory://", "name a broker that others can open"),
        ("tail room:lobby --history -1", "'--history'"),
        ("tail room:lobby --broker sqlite:///missing/a.db", "missing/a.db"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(tmp_path: Path, arguments: str, said: str) -> None:
    ended = tidewire(tmp_path, *arguments.split())
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert said in ended.stderr
    assert "s3cret" not in ended.stderr


def test_several_mistakes_of_a_file_have_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text("prot = 1\n[engine]\ntype = 'redis'\n")
    ended = tidewire(tmp_path, "serve")
    assert ended.returncode == 2
    first, *others = ended.stderr.splitlines()
    assert first == "error: tidewire.toml: unknown settings"
    assert [line.partition(":")[0] for line in others] == ["  prot", "  engine"], ended.stderr


@pytest.mark.parametrize("arguments", ["publish news -", "user add ann --password-stdin"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_stdin_that_is_not_utf_8_is_one_line(tmp_path: Path, arguments: str, errors: str) -> None:
    ended = subprocess.run(
        [*COMMAND, *arguments.split()],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING=f"utf-8:{errors}"),
        input=b"12345678\xff\n",
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr.decode()) == (
        2,
        "error: stdin is not UTF-8 (at byte 8); convert it, as with iconv\n",
    )


def test_settings_in_rising_order_and_their_origins(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text("port = 1\nworkers = 2\n[limits]\nburst = 3\n")
    printed = done(
        tmp_path,
        *("serve", "--print-config", "--workers", "7", "--limit", "rate=8", "--broker", "redis://ann:s3cret@host"),
        TIDEWIRE_PORT="5",
        TIDEWIRE_LIMITS__FRAGMENTS="6",
    )
    lines = {tuple(part.strip() for part in line.split("  # ")) for line in printed.splitlines()}
    assert {
        ("port = 5", "environment"),
        ("workers = 7", "flag"),
        ("limits.burst = 3", "file"),
        ("limits.rate = 8", "flag"),
        ("limits.fragments = 6", "environment"),
        ("limits.message_size = 65536", "default"),
        ('broker = "redis://ann:***@host"', "flag"),
    } <= {(line.replace(" " * 2, "").strip(), origin) for line, origin in lines}
    assert "s3cret" not in printed


def test_publishing_says_the_offset_and_a_key_makes_repeating_harmless(tmp_path: Path) -> None:
    first = done(tmp_path, "publish", "news", '{"a": 1}', "--key", "k")
    assert first.startswith("kept at offset 1 ")
    assert done(tmp_path, "publish", "news", '{"a": 1}', "--key", "k") == first
    assert done(tmp_path, "publish", "news", "-", stdin='"from a pipe"\n').startswith("kept at offset 2 ")


def test_tail_shows_history_and_then_what_comes(tmp_path: Path) -> None:
    for number in range(3):
        done(tmp_path, "publish", "news", str(number))
    with tailing(tmp_path, "news", "--history", "2") as process:
        assert [next_line(process).split()[1:] for _ in range(2)] == [["2", "1"], ["3", "2"]]
        done(tmp_path, "publish", "other", '"not here"')
        done(tmp_path, "publish", "news", '{"now": true}')
        assert next_line(process).split(maxsplit=2)[1:] == ["4", '{"now":true}']
        done(tmp_path, "publish", "news", '"hello"')
        assert next_line(process).split(maxsplit=2)[1:] == ["5", "hello"], "a client of plain text gets no quotes"


def test_tail_since_an_offset_as_json(tmp_path: Path) -> None:
    for number in range(3):
        done(tmp_path, "publish", "news", str(number))
    with tailing(tmp_path, "news", "--since", "1", "--json") as process:
        assert [json.loads(next_line(process))["offset"] for _ in range(2)] == [2, 3]
        done(tmp_path, "publish", "news", '{"now": true}')
        assert json.loads(next_line(process))["data"] == {"now": True}


def test_tail_shows_escapes_of_the_terminal_as_text(tmp_path: Path) -> None:
    done(tmp_path, "publish", "news", json.dumps("\x1b]0;owned\x07 \x9b31m \u202e"))
    done(tmp_path, "publish", "news", json.dumps("\x9b31m \u202e", ensure_ascii=False))
    for form in ((), ("--json",)):
        with tailing(tmp_path, "news", *form) as process:
            for _ in range(2):
                assert next_line(process).isprintable()


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    for number in range(3):
        done(tmp_path, "publish", "news", str(number))
    shell = f"{' '.join(COMMAND)} user list | true; {' '.join(COMMAND)} serve --print-config | head -1"
    ended = subprocess.run(
        ["/bin/sh", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert ended.stderr == ""


def test_the_password_is_asked_for_twice_and_not_shown(tmp_path: Path) -> None:
    said = typed(tmp_path, ("user", "add", "ann"), (GOOD, GOOD))
    assert "password" in said
    assert GOOD not in said
    assert done(tmp_path, "user", "list").startswith("ann ")


def typed(folder: Path, arguments: tuple[str, ...], lines: tuple[str, ...]) -> str:
    """Run a command in a terminal of its own, type each line when something is asked, and return what it shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(sys.executable, [*COMMAND, *arguments], environment())
    limit = threading.Timer(30, os.kill, (pid, 9))
    limit.start()
    shown, waiting = "", list(lines)
    try:
        while True:
            try:
                part = os.read(terminal, 1_024).decode()
            except OSError:  # how Linux says that the other side of a terminal has gone
                break
            if not part:
                break
            shown += part
            # The space comes when the terminal shows no more what is typed.
            if shown.endswith(": ") and waiting:
                os.write(terminal, waiting.pop(0).encode() + b"\n")
    finally:
        os.waitpid(pid, 0)
        limit.cancel()
        os.close(terminal)
    return shown


@pytest.mark.slow
def test_bench_measures_something(tmp_path: Path) -> None:
    printed = done(tmp_path, "bench")
    assert "publishes/s" in printed
    assert "deliveries/s" in printed
    assert list(tmp_path.iterdir()) == []
