"""The documentation that the server shows: every page, every link and anchor, and the search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidewire.server.documentation import documentation
from tidewire.server.manual_pages import Manual


@pytest.fixture(scope="module")
def made() -> Manual:
    return Manual(documentation(), path="/manual")


def test_every_link_leads_somewhere(made: Manual) -> None:
    pages = {made.address(name): made.html(name) or "" for name in made.titles}
    assert len(pages) > 40
    ids = {address: set(re.findall(r' id="([^"]+)"', html)) for address, html in pages.items()}
    wrong = []
    for address, html in pages.items():
        assert html.startswith("<h1"), address
        for href in re.findall(r'href="([^"]+)"', html):
            target, _, anchor = href.partition("#")
            if not href.startswith(("http", "mailto:")) and (
                (target or address) not in pages or (anchor and anchor not in ids[target or address])
            ):
                wrong.append(f"{address}: {href}")
    assert not wrong


def test_no_table_has_a_header_without_words(made: Manual) -> None:
    assert not [name for name in made.titles if "<th></th>" in (made.html(name) or "")]


def test_a_search_finds_the_page_that_is_meant_first(made: Manual) -> None:
    assert made.search("redis")[0].name == "howto/redis"
    assert "reference/codes" in [found.name for found in made.search("1013")]
    assert made.search("recovered")[0].excerpt
    assert made.search("Nobody-Says-This") == made.search(" ") == []


def test_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# A <b>\n\n<script>alert(1)</script> [x](javascript:alert(1)) [y](../else.md)\n")
    made = Manual({"page": tmp_path / "page.md"}, path="/manual")
    html = made.html("page") or ""
    assert "<script" not in html
    assert "href" not in html
    assert ">y" not in html
    assert "y (in the repository)" in html
    assert made.html("other") is None
