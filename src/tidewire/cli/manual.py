"""`tidewire docs`: the pages of the documentation, which come with the package."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from tidewire.cli.terminal import say
from tidewire.errors import ConfigurationError
from tidewire.server.documentation import documentation

__all__ = ("docs",)

Page = Annotated[
    str, typer.Argument(metavar="PAGE", help="A page, as howto/redis or skill; without one: the list of pages.")
]
#: The page for coding assistants: most of the manual at once.
_SKILL = Path(__file__).parents[1] / ".agents" / "skills" / "tidewire" / "SKILL.md"


def docs(page: Page = "") -> None:
    """Show a page of the documentation that belongs to this version, or the list of pages."""
    pages = {"skill": _SKILL} | documentation()
    if len(pages) == 1:
        raise ConfigurationError("this installation has no pages; they are in docs/ of the repository")
    name = page.removeprefix("docs/").removesuffix(".md")
    if not name:
        width = max(map(len, pages))
        for known, path in pages.items():
            say(f"{known:{width}}  {_title(path)}")
    elif name in pages:
        sys.stdout.write(pages[name].read_text(encoding="utf-8"))  # as it is, so that its programs can be copied
    else:
        near = get_close_matches(name, pages, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else "`tidewire docs` lists them"
        raise ConfigurationError(f"there is no page {page!r}; {hint}")


def _title(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")
