"""The example whose answers grow, over two workers: read from the beginning and late, and stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from examples.serving import Example


def read(client: httpx.Client) -> Iterator[dict[str, Any]]:
    with client.stream("GET", "/ask/a") as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def whole(client: httpx.Client) -> str:
    text = ""
    for chunk in read(client):
        text = chunk["text"] if chunk.get("at") == 0 else text + chunk["text"]
        if chunk.get("end") == "done":
            return text
    raise AssertionError("the response has ended")


def test_an_answer_is_the_same_for_all_and_can_be_stopped(tmp_path: Path) -> None:
    example = Example("ask", tmp_path, "--workers", "2").start()
    try:
        with httpx.Client(base_url=example.url, timeout=20, trust_env=False) as client:
            assert client.post("/ask/a", json={"text": "why?", "words": 40}).status_code == 202
            first = whole(client)
            assert first.startswith("why?\n")
            assert len(first.split()) == 41
            assert [whole(client) for _ in range(3)] == [first] * 3  # late ones, perhaps at the other worker
            assert client.post("/ask/a", json={"text": "on and on", "words": 5_000}).status_code == 202
            stopped = ""
            for chunk in read(client):
                if not stopped and chunk["text"] and not chunk.get("end"):
                    assert client.delete("/ask/a").status_code == 204
                    stopped = chunk["stream"]
                if chunk["stream"] == stopped and chunk.get("end"):
                    assert chunk["end"] == "stopped"
                    return
    finally:
        example.end()
