"""One word for one thing, in plain English: the glossary lists the words that the source and the pages do not use."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tidewire"
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
    )
]
PAGES += [path for path in (ROOT / "docs").rglob("*.md") if "bench" not in path.parts]
PAGES += (ROOT / "examples").rglob("*.md")
#: Names of others; the flag of `tail` and its like, which is a button of a log on a page, too; a character.
ALLOWED = {"follow_symlinks", "follow_redirects"}
FLAG = re.compile(r"--follow|>Follow<|carriage returns?")
#: A clause that begins with a bare "who": "who comes later is told", "the answer of who was asked".
BARE_WHO = re.compile(
    r"(?:^\W*|[.,;:(—] |\b(?:and|or|but|than|as|that|by|for|of|to|with|from|on|at|in) )who\b(?![^.]*\?)", re.I
)
#: A sentence that begins with a clause as its subject, and is no question: "What waits is read twice". The title of a
#: section of a page may be one.
FIRST_WHAT = re.compile(r"(?:^\W*|[.:;] )What\b(?![^.]*\?)")
FIRST_WORDS = re.compile(r"(Let|Say|Be|Have)\b")


@cache
def forbidden(where: str) -> frozenset[str]:
    """Return the words of the glossary's last table that are forbidden there."""
    table = GLOSSARY.read_text().partition("## Words that we do not use")[2]
    rows = re.findall(r"^\| ([a-z, ]+) \| .* \| (everywhere|names[a-z ]*) \|$", table, re.MULTILINE)
    return frozenset(word for words, place in rows for word in words.split(", ") if place in (where, "everywhere"))


def parts(name: str) -> list[str]:
    """Return the words of a name in snake case or in camel case."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


FILES = sorted([*SOURCE.rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
#: The pages, their modules and their declarations; programs that a page fetches from others are not ours to word.
WEB = sorted(
    path
    for tree in (SOURCE, ROOT / "examples")
    for path in tree.rglob("*.*")
    if path.suffix in {".html", ".js", ".ts", ".css"}
)
WEB = [path for path in WEB if "node_modules" not in path.parts]
#: The text of a page and the comments of a module, line by line.
STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
COMMENT = re.compile(r"\s*(?://|/?\*)\W*")
STATEMENTS = sorted([*SOURCE.rglob("*.sql"), *SOURCE.rglob("*.lua")])


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Return comments and strings with their lines."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            yield token.start[0], token.string


def names(source: str) -> Iterator[tuple[int, str]]:
    """Return the names in the code with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string not in ALLOWED:
            yield token.start[0], token.string


def docstrings(source: str) -> Iterator[str]:
    """Return the docstrings of a module and of everything in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_the_glossary_forbids_words() -> None:
    assert {"follow", "lane", "carrier"} <= forbidden("names")
    assert "told" not in forbidden("everywhere")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_source_has_one_word_for_one_thing(path: Path) -> None:
    source = path.read_text()
    wrong = forbidden("names")
    if {"backends", "client"}.intersection(path.parts):
        wrong |= forbidden("names of stores and clients")
    found = [f"{path}:{line}: {name}" for line, name in names(source) if wrong.intersection(parts(name))]
    for line, text in texts(source):
        words = forbidden("everywhere").intersection(parts(FLAG.sub("", text)))
        found += [f"{path}:{line}: {word}" for word in words if word not in re.findall(r"\w+", " ".join(ALLOWED))]
    found += [f"{path}: named so" for part in parts(path.stem) if part in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_and_docstrings_name_the_subject(path: Path) -> None:
    source = path.read_text()
    found = [text for text in docstrings(source) if FIRST_WORDS.match(text)]
    for line, text in texts(source):
        if text.startswith(("#", '"""')):
            found += [f"{path}:{line}: {part.strip()}" for part in text.splitlines() if BARE_WHO.search(part)]
            found += [f"{path}:{line}: {part.strip()}" for part in text.splitlines() if FIRST_WHAT.search(part)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_has_one_word_for_one_thing(path: Path) -> None:
    text = re.sub(r"::test_\w+", "", path.read_text().partition("## Words that we do not use")[0])
    found = sorted(forbidden("everywhere").intersection(parts(text)))
    found += [line for line in text.splitlines() if BARE_WHO.search(line) and "?" not in line]
    found += [line for line in text.splitlines() if FIRST_WHAT.search(line) and not line.startswith("#")]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", WEB, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pages_of_the_server_have_one_word_for_one_thing(path: Path) -> None:
    text = STYLE.sub("", FLAG.sub("", path.read_text()))
    found = sorted(forbidden("everywhere").intersection(parts(text)))
    for line in text.splitlines():
        said = line if path.suffix == ".html" else COMMENT.sub("", line) if COMMENT.match(line) else ""
        found += [line] * bool(("?" not in said and BARE_WHO.search(said)) or FIRST_WHAT.search(said))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", STATEMENTS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_stores_have_one_word_for_one_thing(path: Path) -> None:
    """Names of columns and of variables in SQL and Lua are read by those who look into a store."""
    assert not forbidden("everywhere").intersection(parts(path.read_text()))
