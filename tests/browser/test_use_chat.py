"""The published hook `useChat` of the AI SDK on a page: it resumes after a reload or a cut; another tab stops it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ai_sdk.serving import serving
from clients.serving import Cuttable
from helpers.node_packages import node_modules

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.slow]

SOURCES = Path(__file__).parents[1] / "ai_sdk"
HTML = '<!doctype html><meta charset="utf-8"><title>chat</title><div id="root"></div><script src="page.js"></script>'


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The application, with the page at `/`."""
    packages, page = node_modules(SOURCES) / "node_modules", tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text(HTML)
    command = [
        str(packages / ".bin" / "esbuild"),
        str(SOURCES / "page.jsx"),
        "--bundle",
        "--jsx=automatic",
        '--define:process.env.NODE_ENV="production"',
        f"--outfile={page / 'page.js'}",
    ]
    done = subprocess.run(command, env=os.environ | {"NODE_PATH": str(packages)}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    with serving(tmp_path, TIDEWIRE_TEST_PAGE=str(page)) as address:
        yield address


def words(page: Page) -> int:
    """Return how many words of the answer a page shows; they are the first ones, without a hole."""
    text = page.locator("#text").text_content() or ""
    found = text.split()
    assert text == "".join(f"word{n} " for n in range(len(found)))
    return len(found)


def wait_words(page: Page, count: int) -> None:
    expect(page.locator("#text")).to_have_text(re.compile(rf"\bword{count} "), timeout=30_000)


def test_an_answer_goes_on_after_a_reload_and_another_tab_stops_it(chromium: Browser, url: str) -> None:
    first, second = [chromium.new_context().new_page() for _ in range(2)]
    first.goto(f"{url}/?chat=one")
    expect(first.locator("#status")).to_have_text("ready")
    first.locator("#ask").click()
    wait_words(first, 30)
    before = words(first)
    first.reload()
    wait_words(first, before + 30)
    second.goto(f"{url}/?chat=one")
    wait_words(second, before + 60)
    for page in (first, second):
        expect(page.locator("#status")).to_have_text("streaming")
    second.locator("#stop").click()
    for page in (first, second):
        expect(page.locator("#status")).to_have_text("ready")
        expect(page.locator("#error")).to_be_empty()
    assert words(first) == words(second) > before + 60
    idle = chromium.new_context().new_page()
    idle.goto(f"{url}/?chat=two")  # where nobody has asked
    expect(idle.locator("#status")).to_have_text("ready")
    expect(idle.locator("#text")).to_be_empty()
    for page in (first, second, idle):
        page.context.close()


def test_a_page_that_was_cut_goes_on_and_is_told_of_an_end_that_it_has_missed(chromium: Browser, url: str) -> None:
    with Cuttable(int(url.rpartition(":")[2])) as relay:
        page = chromium.new_context().new_page()
        page.goto(f"http://127.0.0.1:{relay.port}/?chat=one")
        page.locator("#ask").click()
        wait_words(page, 30)
        for is_stopped in (False, True):
            relay.refuse()
            expect(page.locator("#error")).not_to_be_empty()
            before = words(page)
            if is_stopped:
                httpx.delete(f"{url}/api/chat/one/stream").raise_for_status()
            relay.admit()
            expect(page.locator("#status")).to_have_text("ready" if is_stopped else "streaming")
            expect(page.locator("#error")).to_be_empty()
            wait_words(page, before + (0 if is_stopped else 30))
            words(page)
        with httpx.stream("GET", f"{url}/api/chat/one/stream") as response:
            deltas = [json.loads(line[6:]) for line in response.iter_lines() if "text-delta" in line]
        assert page.locator("#text").text_content() == "".join(part["delta"] for part in deltas)
        page.context.close()
