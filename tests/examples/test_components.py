"""The React and the Vue component of examples/clients, bundled with the npm client, in a real browser."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from browser.conftest import ARGUMENTS, CHROMIUM
from examples.serving import EXAMPLES, Example
from helpers.node_packages import node_modules
from requirements import require

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.slow]

BUNDLES = Path(__file__).parent / "bundles"
#: A page of the application itself: the server refuses those of other origins.
SHOWN = """
from app import app
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app.router.routes.insert(0, Mount("/shown", StaticFiles(directory="shown", html=True)))
"""
PAGE = '<!doctype html><meta charset="utf-8"><title>Bell</title><div id="bell"></div><script src="bell.js"></script>'


@pytest.fixture
def page() -> Iterator[Page]:
    require(CHROMIUM.exists(), "chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        errors: list[str] = []
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
        assert not errors


@pytest.mark.parametrize("component", ["react/Bell.jsx", "vue/Bell.vue"])
def test_a_component_shows_what_was_there_what_comes_and_what_it_missed(
    component: str, page: Page, tmp_path: Path
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "index.html").write_text(PAGE)
    (tmp_path / "with_page.py").write_text(SHOWN)
    bundle = tmp_path / "shown" / "bell.js"
    source = EXAMPLES / "clients" / component
    command = ["node", str(BUNDLES / "bundle.mjs"), str(node_modules(BUNDLES)), str(source), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    server = Example("notifications", tmp_path, application="with_page:app").start()
    try:
        notify(server, "before")
        page.goto(f"{server.url}/shown/")
        titles = page.get_by_role("list", name="Notifications").get_by_role("listitem")
        expect(titles).to_have_text(["before"], timeout=10_000)
        notify(server, "now")
        expect(titles).to_have_text(["before", "now"])
        server.end()
        server.start()
        notify(server, "while it was away")
        expect(titles).to_have_text(["before", "now", "while it was away"], timeout=30_000)
    finally:
        server.end()


def notify(server: Example, title: str) -> None:
    httpx.post(f"{server.url}/notify/ann", json={"title": title}, timeout=10).raise_for_status()
