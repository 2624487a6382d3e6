"""One person at one browser, in the words of a test."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

__all__ = ("DESK", "PASSWORD", "PHONE", "Person")

PASSWORD = "correct horse battery"
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

#: What the browser itself writes when a request is refused or the server is away: expected where tests do that.
_NETWORK = re.compile(r"Failed to load resource|WebSocket connection to .* failed|net::ERR")


class Person:
    """A browser context with one page or more; collects what goes wrong in the console."""

    def __init__(self, browser: Browser, url: str, name: str, **options: Any) -> None:
        self.name = name
        self.url = url
        self.errors: list[str] = []
        self.addresses: list[str] = []
        self.context = browser.new_context(viewport=options.pop("viewport", DESK), **options)
        self.context.set_default_timeout(10_000)
        self.page = self.tab()

    def tab(self) -> Page:
        """Open one more tab, and watch its console and its requests."""
        page = self.context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("websocket", lambda socket: self.addresses.append(socket.url))
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _NETWORK.search(message.text):
            self.errors.append(message.text)

    def sign_up(self) -> Person:
        """Make the account without the form, open the page as it would be then, and wait until it is connected."""
        credentials = {"username": self.name, "password": PASSWORD}
        token = self.context.request.post(f"{self.url}/signup", data=credentials).json()["token"]
        self.page.goto(f"{self.url}/ui/mark.svg")
        session = json.dumps({"token": token, "username": self.name, "stay": True})
        self.page.evaluate("(session) => localStorage.setItem('tidewire:session', session)", session)
        self.page.goto(self.url)
        self.wait_connected()
        return self

    def sign_up_on_the_page(self) -> Person:
        """Make the account as a person does, and wait until the page is connected."""
        self.page.goto(self.url)
        self.page.get_by_role("button", name="Create an account").click()
        self.fill_in(self.name, PASSWORD)
        self.page.get_by_role("button", name="Create account").click()
        self.wait_connected()
        return self

    def fill_in(self, name: str, password: str) -> None:
        """Fill the form in."""
        self.page.get_by_role("textbox", name="Name", exact=True).fill(name)
        self.page.get_by_role("textbox", name="Password", exact=True).fill(password)

    def wait_connected(self, page: Page | None = None) -> None:
        """Wait until the page says that it is connected."""
        expect((page or self.page).locator("#pill")).to_have_attribute("data-state", "connected", timeout=25_000)

    def say(self, text: str, page: Page | None = None) -> None:
        """Write a message and send it with Enter."""
        field = (page or self.page).locator("#writing")
        field.fill(text)
        field.press("Enter")

    def messages(self, page: Page | None = None) -> list[str]:
        """Return the texts in view, oldest first."""
        return (page or self.page).locator("#log .text").all_inner_texts()

    def message(self, text: str) -> Locator:
        """Return the message with this text."""
        return self.page.locator("#log li.message").filter(has=self.page.get_by_text(text, exact=True))

    def entry(self, name: str) -> Locator:
        """Return the room or conversation of this name in the list at the side."""
        exact = self.page.locator(".label", has_text=re.compile(f"^{re.escape(name)}$"))
        return self.page.locator("#sidebar .entry-link").filter(has=exact)

    def go(self, room: str) -> None:
        """Find or create a room through the dialog."""
        self.page.get_by_role("button", name="Find or create a room").click()
        self.page.get_by_label("Name of the room").fill(room)
        self.page.get_by_label("Name of the room").press("Enter")
        expect(self.page.locator("#thread-title")).to_have_text(room)
        expect(self.page.locator("#empty")).not_to_contain_text("Fetching")
