"""The links from one page to the others."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ("page_links",)


def page_links(pages: Iterable[tuple[str, str]], path: str) -> str:
    """Return HTML for pages, given by name and address; the one at `path`, or above it, is marked as the current."""
    return "".join(
        f'<a href="{escape(address, quote=True)}"{_CURRENT if _is_in(path, address) else ""}>{escape(name)}</a>'
        for name, address in pages
    )


_CURRENT = ' aria-current="page"'


def _is_in(path: str, address: str) -> bool:
    return path == address or (address != "/" and path.startswith(f"{address}/"))
