"""The log of a step is bounded, and says what it leaves out; progress is found in output."""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tidewire.pipelines
from tidewire.pipelines.output import BoundedLog
from tidewire.pipelines.progress import rule_from

TAIL = 65_536


def bounded(path: Path, *, limit: int = 10_000_000, rate: float = 1e9, now: float = 0.0) -> BoundedLog:
    return BoundedLog(str(path), limit=limit, rate=rate, now=now)


def test_all_is_kept_below_the_limits(tmp_path: Path) -> None:
    log = bounded(tmp_path / "log")
    log.write(b"one\n", 0.0)
    log.write(b"two\n", 0.0)
    log.note("end")
    log.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\n[tidewire] end\n"
    assert log.left_out == 0


def test_a_full_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    log = bounded(tmp_path / "log", limit=TAIL + 10_000)
    lines = [f"line {number:06}\n".encode() for number in range(50_000)]
    for start in range(0, len(lines), 1_000):
        log.write(b"".join(lines[start : start + 1_000]), 0.0)
    log.close()
    text = (tmp_path / "log").read_bytes()
    assert len(text) < 2 * TAIL + 20_000
    assert text.startswith(lines[0] + lines[1])
    assert text.endswith(lines[-1])
    assert b"are left out here: the log is full" in text
    assert log.left_out == sum(map(len, lines)) - sum(len(line) + 1 for line in text.split(b"\n") if b"line " in line)


def test_what_comes_too_fast_is_left_out_and_said(tmp_path: Path) -> None:
    log = bounded(tmp_path / "log", rate=1_000)
    for _ in range(200):
        log.write(b"x" * 999 + b"\n", 0.0)
    log.write(b"later\n", 10.0)
    log.close()
    text = (tmp_path / "log").read_text()
    assert "they came too fast" in text
    assert text.endswith("later\n")
    assert log.left_out > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(0, 2_000), st.integers(1, 5_000))
def test_every_byte_is_kept_or_counted(pieces: list[bytes], limit: int, rate: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        log = bounded(path, limit=TAIL + limit, rate=float(rate))
        for number, piece in enumerate(pieces):
            log.write(piece, number * 0.01)
        log.close()
        kept = re.sub(rb"\n\[tidewire\] \d+ lines \(\d+ bytes\) are left out here: [a-z ]+\n", b"", path.read_bytes())
    assert len(kept) + log.left_out == sum(map(len, pieces))
    if not log.left_out:
        assert kept == b"".join(pieces)


def test_news_are_the_newest_text_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = bounded(path)
    assert log.news() is None
    log.write("héllo\n".encode(), 0.0)
    assert log.news() == (0, 7, "héllo\n")
    log.write("é".encode()[:1], 0.0)
    assert log.news() is None, "half a character is not told"
    log.write("é".encode()[1:] + b"\n", 0.0)
    assert log.news() == (7, 10, "é\n")
    log.write(b"".join(b"%06d\n" % number for number in range(10_000)), 0.0)
    found = log.news()
    assert found is not None
    start, end, text = found
    assert path.read_bytes()[start:end] == text.encode()
    assert end == log.size
    assert len(text) <= 16_384
    log.close()


def test_the_last_lines(tmp_path: Path) -> None:
    log = bounded(tmp_path / "log")
    log.note("begin")
    log.write(b"\n".join(b"line %d" % number for number in range(100)) + b"\n", 0.0)
    log.note("end")
    assert log.last_lines() == [f"line {number}" for number in range(80, 100)]
    log.close()


@pytest.mark.parametrize(
    ("rule", "pieces", "fraction"),
    [
        ({}, [b"50%\n"], 0.0),
        ({"pattern": r"(\d+)%"}, [b"10%\n25", b"%\n"], 0.25),
        ({"pattern": r"(\d+)%"}, [b"10%\r40%\r"], 0.4),
        ({"pattern": r"^([\d,]+) of ([\d,]+)$"}, [b"1,000 of 4,000\nno\n"], 0.25),
        ({"pattern": r"(\d+) of (\d+)"}, [b"1 of 0\n"], 0.0),
        ({"pattern": r"(\d+)%"}, [b"10%\n", b"x" * 200_000 + b"\n30%\n"], 0.3),
        ({"lines": 4}, [b"a\nb\n", b"c\n"], 0.75),
        ({"bytes": 10}, [b"12345"], 0.5),
    ],
)
def test_rules_of_progress(rule: dict[str, object], pieces: list[bytes], fraction: float) -> None:
    found = rule_from(rule)
    for piece in pieces:
        found.feed(piece)
    assert found.fraction == pytest.approx(fraction)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_how_far_a_file_was_read(tmp_path: Path) -> None:
    path = tmp_path / "reads"
    path.write_bytes(bytes(1_000))
    rule = rule_from({"path": str(path)})
    with path.open("rb", buffering=0) as file:
        file.read(250)
        rule.look([os.getpid(), 999_999_999])
    assert rule.fraction == 0.25


def test_the_guard_needs_nothing_but_the_standard_library() -> None:
    folder = Path(tidewire.pipelines.__file__).parent
    for name in ("program_guard", "program_messages", "output", "processes", "progress"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for found in names:
                assert found.split(".")[0] in sys.stdlib_module_names or found in {
                    f"tidewire.pipelines.{other}" for other in ("program_messages", "output", "processes", "progress")
                }, f"{name} imports {found}"
