"""`tidewire docs`: the pages of the documentation, which come with the package."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from tidewire.cli.terminal import out, say
from tidewire.errors import ConfigurationError

__all__ = ("docs",)

Page = Annotated[str, typer.Argument(metavar="PAGE", help="A page, as howto/redis; without one: the list of pages.")]
#: In the package as it is installed, and in a copy of the repository.
_PLACES = (Path(__file__).parents[1] / "docs", Path(__file__).parents[3] / "docs")


def docs(page: Page = "") -> None:
    """Show a page of the documentation that belongs to this version, or the list of pages."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    if folder is None:
        raise ConfigurationError("this installation has no pages; they are in docs/ of the repository")
    pages = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.md"))}
    name = page.removeprefix("docs/").removesuffix(".md")
    if not name:
        for known in pages:
            say(known)
    elif name in pages:
        out.print(Markdown(pages[name].read_text(encoding="utf-8")))
    else:
        near = get_close_matches(name, pages, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else "`tidewire docs` lists them"
        raise ConfigurationError(f"there is no page {page!r}; {hint}")
