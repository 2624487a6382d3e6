"""Names of channels: judged once, and those of other types not mistaken for a string that equals them."""

from __future__ import annotations

from typing import Any

import pytest

from tidewire.channels import open_channel
from tidewire.errors import BadRequest, PermissionDenied


class Text(str):
    """A string of the application's own, which may say that it equals any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("room:1")


def test_a_name_is_judged_by_the_limit_that_is_given() -> None:
    assert open_channel("room:1", 255) == open_channel("room:1", 6) == "room:1"
    with pytest.raises(BadRequest, match="longer than the limit of 5"):
        open_channel("room:1", 5)
    for _ in range(2):
        with pytest.raises(PermissionDenied, match="reserved"):
            open_channel("$control", 255)


@pytest.mark.parametrize("wrong", [5, None, ["room:1"], b"room:1", "", "a\nb", Text("\n")])
def test_what_is_no_name_is_refused_also_after_one_that_equals_it(wrong: Any) -> None:
    assert open_channel("room:1", 255)
    with pytest.raises(BadRequest, match="channel name"):
        open_channel(wrong, 255)
