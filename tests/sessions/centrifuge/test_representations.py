"""Representations of publications: equal ones are one instance."""

from __future__ import annotations

import gc

from tidewire.protocols.centrifuge.encoding import CentrifugeJson
from tidewire.sessions.centrifuge.representations import plain


def test_what_most_subscriptions_use_is_made_once_though_none_of_them_keeps_it() -> None:
    protocol = CentrifugeJson()
    made = id(plain(protocol, False, offset=True))
    gc.collect()
    others = [CentrifugeJson() for _ in range(3)]
    assert made not in [id(plain(other, False, offset=True)) for other in others]
    assert id(plain(protocol, False, offset=True)) == made
    assert plain(protocol, False, offset=False) is plain(protocol, False, offset=False)
    assert plain(protocol, True, offset=True) is not plain(protocol, False, offset=True)
