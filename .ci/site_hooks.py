"""Hooks of the site's builder: navigation by folders, and pages for the files outside of docs/ that pages link to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
LANGUAGES = {
    ".py": "python",
    ".js": "js",
    ".html": "html",
    ".toml": "toml",
    ".yml": "yaml",
    ".conf": "nginx",
    ".jsx": "jsx",
}
#: A row of the first page that groups how-tos, and the pages that it names.
GROUP = re.compile(r"^\| \*\*Do: (?P<title>[^*]+)\*\* \| (?P<pages>.*) \|$", re.MULTILINE)
#: Files outside of docs/ that become pages whether a page links to them or not.
ALWAYS = ("CHANGELOG.md", "examples/README.md")


def on_config(config: Any) -> Any:
    """Fill the entries of the navigation that name a folder."""
    config["nav"] = [
        {title: _pages(value) if isinstance(value, str) and value.endswith("/") else value}
        for entry in config["nav"]
        for title, value in entry.items()
    ]
    return config


def _pages(folder: str) -> list[Any]:
    """Return the pages of a folder: those that the first page groups in its groups, the others by their names."""
    pages = sorted(str(path.relative_to(DOCS)) for path in (DOCS / folder).glob("*.md"))
    groups = []
    for row in GROUP.finditer((DOCS / "README.md").read_text(encoding="utf-8")):
        named = [page for page in LINK.findall(row["pages"]) if page in pages]
        if named:
            groups.append({row["title"].capitalize(): named})
            pages = [page for page in pages if page not in named]
    return [*groups, *pages]


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file outside that is linked to, and for those that these link to."""
    wanted = list(ALWAYS)
    for page in DOCS.rglob("*.md"):
        wanted += _outside(page.read_text(encoding="utf-8"), page.parent)
    done: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".md"):
            wanted += _outside(text, (ROOT / name).parent)
        files.append(File.generated(config, f"files/{_page(name)}", content=_content(name, text)))
    return files


def _outside(text: str, folder: Path) -> list[str]:
    """Return the files outside of docs/ that a text links to."""
    found = []
    for link in LINK.findall(text):
        path = (folder / link).resolve()
        if path.is_relative_to(ROOT) and not path.is_relative_to(DOCS):
            path = path / "README.md" if path.is_dir() and (path / "README.md").exists() else path
            if path.is_file() and path.suffix != ".png":
                found.append(str(path.relative_to(ROOT)))
    return found


def _page(name: str) -> str:
    return name if name.endswith(".md") else f"{name}.md"


def _content(name: str, text: str) -> str:
    if name.endswith(".md"):
        return _moved(text, ROOT / name, f"files/{name}")
    language = LANGUAGES.get(Path(name).suffix, "text")
    return f"# {name}\n\n````{language}\n{text}\n````\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside into links to their pages.

    A search finds no source; the first page lists all pages itself.
    """
    if page.file.src_uri.startswith("files/"):
        if Path(page.file.src_uri).stem.count("."):
            page.meta["search"] = {"exclude": True}
        return markdown
    if page.file.src_uri == "README.md":
        page.meta["hide"] = ["navigation"]
    return _moved(markdown, DOCS / page.file.src_uri, page.file.src_uri)


def _moved(text: str, source: Path, page: str) -> str:
    """Return a text whose links, written for the place of a file, hold in its page."""

    def link(match: re.Match[str]) -> str:
        path = (source.parent / match.group(1)).resolve()
        if not path.is_relative_to(ROOT):
            return match.group(1)
        if path.is_relative_to(DOCS):
            target = str(path.relative_to(DOCS))
        else:
            path = path / "README.md" if (path / "README.md").exists() else path
            if not path.is_file():  # a folder: its files are in the repository
                return "#"
            target = f"files/{_page(str(path.relative_to(ROOT)))}"
        return posixpath.relpath(target, posixpath.dirname(page))

    return LINK.sub(link, text)
