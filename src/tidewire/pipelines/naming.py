"""Names of samples and files that can be neither a path nor an option, and the expansion of placeholders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping

from tidewire.errors import ConfigurationError
from tidewire.pipelines.errors import BadStart

__all__ = ("check_sample", "expand", "expand_argument", "file_name", "is_name", "placeholders", "readable")

_SAMPLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z0-9][a-z0-9_-]*)\}|[{}]")
#: Bytes of the name of a file that a user sent.
_FILE_NAME = 200
#: The joiners within words of Persian and within emoji, and the categories of emoji with the colours of their skin.
_JOINERS, _PICTURES = "\u200c\u200d", ("So", "Sk")


def check_sample(sample: object) -> str:
    """Return the name of a sample if it is valid. Raises BadStart."""
    if isinstance(sample, str) and _SAMPLE.fullmatch(sample):
        return sample
    raise BadStart(
        f"sample name {str(sample)[:80]!r} cannot be used; write 1 to 64 letters of a to z, digits, "
        "'.', '_' or '-', beginning with a letter or a digit; the name of a file may have any script"
    )


def is_name(name: str) -> bool:
    """Return whether this is a valid name of a pipeline, a step or an input."""
    return _NAME.fullmatch(name) is not None


def readable(name: str) -> str:
    """Return a name of the file system as text: bytes that are not UTF-8 are read as Latin-1."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return "/".join(_readable_part(part) for part in name.split("/"))


def _readable_part(part: str) -> str:
    data = os.fsencode(part)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def file_name(name: str, default: str) -> str:
    """Return the name under which a user's file is kept: letters of any script and emoji, but no path."""
    name = unicodedata.normalize("NFC", readable(re.split(r"[/\\]", name)[-1])).strip()
    stem, dot, end = "".join(map(_kept, name)).partition(".")
    name = (stem.lstrip("_-") or default) + dot + end
    # the end of the name tells the kind of the file
    return name.encode()[-_FILE_NAME:].decode(errors="ignore").lstrip("._-") or default


def _kept(character: str) -> str:
    is_kept = character in "._-" + _JOINERS or unicodedata.category(character) in _PICTURES
    return character if is_kept or unicodedata.category(character)[0] in "LMN" else "_"


def placeholders(template: str) -> set[str]:
    """Return the placeholders of a template; raises ConfigurationError for a stray brace."""
    found = set()
    for match in _TOKEN.finditer(template):
        if match[0] in "{}":
            raise ConfigurationError(
                f"{template!r} has a stray {match[0]!r}; write {match[0] * 2!r} for the brace itself"
            )
        if match[1]:
            found.add(match[1])
    return found


def expand(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders replaced."""
    return _TOKEN.sub(lambda match: values[match[1]] if match[1] else match[0][0], template)


def expand_argument(template: str, values: Mapping[str, str]) -> str:
    """Return one argument. Raises BadStart when a value would turn it into an option or cut it short."""
    argument = expand(template, values)
    if argument.startswith("-") and not template.startswith("-"):
        raise BadStart(f"argument {template!r} would become {argument[:80]!r}, which is an option; use another name")
    if "\0" in argument:
        raise BadStart(f"argument {template!r} would have a zero byte; use another name")
    return argument
