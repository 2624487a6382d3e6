"""Names that a package imports when they are first used."""

from __future__ import annotations

import pytest

import tidewire
import tidewire.pipelines
import tidewire.testing


@pytest.mark.parametrize("package", [tidewire, tidewire.pipelines, tidewire.testing])
def test_every_name_is_found(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tidewire' has no attribute 'Hubb'"):
        tidewire.Hubb  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(tidewire, "StreamReader")  # which the errors' module does not have either
