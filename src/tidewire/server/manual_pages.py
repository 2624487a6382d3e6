"""The documentation as HTML: pages whose links lead to each other, and a search."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ("Found", "Manual")

_FOREIGN = ("http://", "https://", "#", "mailto:")
_MARKS = re.compile(r"[`*|\[\]]|\]\([^)]*\)")
_AROUND = 80


class Found(NamedTuple):
    """A page that a search found, with the text around the first match."""

    name: str
    title: str
    excerpt: str


class Manual:
    """The pages, below a path of the server."""

    def __init__(self, files: Mapping[str, Path], *, path: str) -> None:
        self._path = path
        self._texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self.titles = {name: _title(text) or name for name, text in self._texts.items()}

    def address(self, name: str) -> str:
        """Return the address of a page."""
        return self._path if name == "README" else f"{self._path}/{name.removesuffix('/README')}"

    def html(self, name: str) -> str | None:
        """Return a page, or None if there is none of this name."""
        name = name if name in self._texts else f"{name}/README".removeprefix("/")
        if name not in self._texts:
            return None
        tokens = self._markdown.parse(self._texts[name])
        _name_headings(tokens)
        for token in tokens:
            if token.children:
                token.children = list(self._linked(token.children, posixpath.dirname(name)))
        html = str(self._markdown.renderer.render(tokens, self._markdown.options, {}))
        for wide in ("pre", "table"):  # they scroll, by keyboard too
            html = html.replace(f"<{wide}>", f'<{wide} tabindex="0">')
        return html.replace("<th></th>", "<td></td>")  # a column without a title has no header to read out

    def search(self, words: str) -> list[Found]:
        """Return the pages that have all words, the most matches first."""
        wanted = words.lower().split()
        if not wanted:
            return []
        ranked = sorted(self._texts, key=lambda name: -self._weight(name, wanted))
        return [self._found(name, wanted[0]) for name in ranked if self._weight(name, wanted)]

    def _weight(self, name: str, wanted: Sequence[str]) -> int:
        text, title = self._texts[name].lower(), self.titles[name].lower()
        counts = [text.count(word) + 20 * title.count(word) for word in wanted]
        return sum(counts) if all(counts) else 0

    def _found(self, name: str, word: str) -> Found:
        text = _MARKS.sub(" ", self._texts[name])
        place = max(text.lower().find(word, len(self.titles[name])), 0)
        return Found(name, self.titles[name], " ".join(text[max(place - _AROUND, 0) : place + _AROUND].split()))

    def _linked(self, tokens: Sequence[Token], folder: str) -> Iterator[Token]:
        """Point links at pages of this manual; a link to another file of the repository becomes text, which says so."""
        dropped = 0
        for token in tokens:
            if token.type == "image":
                continue
            if token.type == "link_open":
                target = self._target(str(token.attrGet("href")), folder)
                if target is None:
                    dropped += 1
                    continue
                token.attrSet("href", target)
            elif token.type == "link_close" and dropped:
                dropped -= 1
                token = Token("text", "", 0, content=" (in the repository)")
            yield token

    def _target(self, href: str, folder: str) -> str | None:
        if href.startswith(_FOREIGN):
            return href
        file, _, anchor = href.partition("#")
        name = posixpath.normpath(posixpath.join(folder, file)).removesuffix(".md")
        if name not in self._texts:
            return None
        return self.address(name) + (f"#{anchor}" if anchor else "")


def _title(text: str) -> str:
    return next((line[2:].replace("`", "").strip() for line in text.splitlines() if line.startswith("# ")), "")


def _name_headings(tokens: Sequence[Token]) -> None:
    """Give headings the ids that links name."""
    seen: set[str] = set()
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip())
            number = 1
            while (id_ := slug if number == 1 else f"{slug}_{number - 1}") in seen:
                number += 1
            seen.add(id_)
            token.attrSet("id", escape(id_, quote=True))
