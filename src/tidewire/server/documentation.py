"""The pages of the documentation that come with the package, or stand beside it in a copy of the repository."""

from __future__ import annotations

from pathlib import Path

__all__ = ("documentation",)

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "docs", _PACKAGE.parents[1] / "docs")
#: Folders and pages of the repository that are for its site and its developers alone.
_ELSEWHERE = ("bench/", "pictures/", "reference/python")
#: Folders in the order in which they are read.
_ORDER = ("", "tutorial", "doors", "howto", "reference", "explanation", "decisions")


def documentation() -> dict[str, Path]:
    """Return the files by their names, such as "howto/redis", in reading order; none if there are no pages here."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    if folder is None:
        return {}
    pages = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.md"))}
    shown = sorted((_ORDER.index(name.rpartition("/")[0]), name) for name in pages if not name.startswith(_ELSEWHERE))
    return {name: pages[name] for _, name in shown}
