"""The pages of the documentation that come with the package, or stand beside it in a copy of the repository."""

from __future__ import annotations

from pathlib import Path

__all__ = ("documentation",)

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "docs", _PACKAGE.parents[1] / "docs")
#: Folders and pages of the repository that are for its site and its developers alone.
_ELSEWHERE = ("bench/", "decisions/", "pictures/", "reference/python")


def documentation() -> dict[str, Path]:
    """Return the files by their names, such as "howto/redis"; none if this installation has no pages."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    if folder is None:
        return {}
    pages = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.md"))}
    return {name: path for name, path in pages.items() if not name.startswith(_ELSEWHERE)}
