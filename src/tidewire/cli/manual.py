"""`tidewire docs`: the pages of the documentation, which come with the package."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Annotated

import typer

from tidewire.cli.terminal import say
from tidewire.errors import ConfigurationError
from tidewire.server.documentation import documentation

__all__ = ("docs",)

Page = Annotated[str, typer.Argument(metavar="PAGE", help="A page, as howto/redis; without one: the list of pages.")]


def docs(page: Page = "") -> None:
    """Show a page of the documentation that belongs to this version, or the list of pages."""
    pages = documentation()
    if not pages:
        raise ConfigurationError("this installation has no pages; they are in docs/ of the repository")
    name = page.removeprefix("docs/").removesuffix(".md")
    if not name:
        for known in pages:
            say(known)
    elif name in pages:
        sys.stdout.write(pages[name].read_text(encoding="utf-8"))  # as it is, so that its programs can be copied
    else:
        near = get_close_matches(name, pages, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else "`tidewire docs` lists them"
        raise ConfigurationError(f"there is no page {page!r}; {hint}")
