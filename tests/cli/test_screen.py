"""What `tidewire status` and the start of several workers say."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tidewire.cli import app, serving
from tidewire.cli.operator_commands import _distinct, _troubles


@pytest.mark.parametrize(("counts", "shown"), [([1, 1], "1–2"), ([0, 3], "3"), ([4], "4"), ([], "0")])
def test_channels_of_all_nodes_are_not_counted_twice_in_silence(counts: list[int], shown: str) -> None:
    assert _distinct([{"channels": float(count)} for count in counts]) == shown


def test_newcomers_that_wait_are_no_limit_that_refused_somebody() -> None:
    parts: dict[str, Any] = {"limits_reached": {"arrivals": 75.0, "connections": 2.0}}
    lines = [line.plain for line in _troubles({"nodes": [{"parts": parts}]})]
    assert lines == ["newcomers that waited for a turn (arrivals), none refused: 75", "limits reached: connections 2"]
    assert len(_troubles({"nodes": [{"parts": {"limits_reached": {"arrivals": 1.0}}}]})) == 1


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_reads_at_once_that_workers_start(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    said: list[str] = []
    monkeypatch.setattr(serving, "out", Console(force_terminal=is_terminal))
    monkeypatch.setattr(serving, "say", said.append)
    monkeypatch.setattr("tidewire.server.run.run", lambda *_, **__: None)
    done = CliRunner().invoke(app, ["run", "nothing:app", "--workers", "2"])
    assert done.exit_code == 0, done.output
    assert said == (["starting 2 workers …"] if is_terminal else [])
