"""Builds the site into build/site, and checks it: links, anchors, nothing from elsewhere, and what the search finds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
#: What a newcomer looks for.
WORDS = ("redis", "recovered", "1013", "realtime", "broadcaster")


class _Page(HTMLParser):
    """The links, the anchors and the loaded resources of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        source = given.get("src") if tag in ("script", "img") else given.get("href") if tag == "link" else None
        if source and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(source)


def main() -> int:
    """Build and check, and return the exit code."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"], cwd=ROOT, env=environment, check=True
    )
    pages = {path: _read(path) for path in SITE.rglob("*.html")}
    mistakes = [mistake for path, page in pages.items() for mistake in _mistakes(path, page, pages)]
    index = json.loads((SITE / "search" / "search_index.json").read_text())["docs"]
    for word in WORDS:
        if not any(re.search(rf"\b{word}\b", f"{entry['title']} {entry['text']}", re.IGNORECASE) for entry in index):
            mistakes.append(f"the search finds no {word!r}")
    places = {entry["location"] for entry in index}
    mistakes += [f"the search finds source: {place}" for place in places if re.search(r"^files/.*\.\w+\.html", place)]
    print(*mistakes, sep="\n", end="\n" if mistakes else "")
    print(f"build/site: {len(pages)} pages, {len(index)} entries to search, {len(mistakes)} mistakes")
    return 1 if mistakes else 0


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _mistakes(path: Path, page: _Page, pages: dict[Path, _Page]) -> list[str]:
    name = path.relative_to(SITE)
    found = [f"{name} loads {source}" for source in page.loaded if urlsplit(source).scheme not in ("", "data")]
    if name.name == "404.html":  # its links are those of the root
        return found
    for link in (*page.links, *page.loaded):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        if not target.exists():
            found.append(f"{name} links to {link}, which is not there")
        elif (
            parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"__skip", ""}
        ):
            found.append(f"{name} links to {link}, which has no such place")
    return found


if __name__ == "__main__":
    sys.exit(main())
