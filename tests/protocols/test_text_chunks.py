"""Chunks of text streams, joined to what a late comer is given."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.messages import Format, Publication
from tidewire.protocols.text_chunks import Chunk, chunk_of, fold, units


def published(*items: Chunk | bytes) -> list[Publication]:
    datas = [item.encode() if isinstance(item, Chunk) else item for item in items]
    return [Publication("a", n, n - 1, "e", float(n), data) for n, data in enumerate(datas, 1)]


def shown(publications: tuple[Publication, ...]) -> list[tuple[int, str, int | None, str] | bytes]:
    found: list[tuple[int, str, int | None, str] | bytes] = []
    for one in publications:
        chunk = chunk_of(one)
        found.append(one.data if chunk is None else (one.offset, chunk.text, chunk.at, chunk.end))
    return found


def test_chunks_become_one_where_the_last_one_stood() -> None:
    chunks = published(
        Chunk("s", "", 0),
        Chunk("s", "Hel", 0),
        b'"other"',
        Chunk("s", "lo", 3),
        Chunk("t", "T", 0),
        Chunk("s", "!", 5, "done"),
    )
    expected = [b'"other"', (5, "T", 0, ""), (6, "Hello!", 0, "done")]
    assert shown(fold(chunks)) == expected
    assert shown(fold(chunks[::-1])) == expected[::-1]
    assert fold(fold(chunks)) == fold(chunks)
    assert fold(chunks)[-1].previous == 0


def test_a_whole_text_takes_the_place_of_its_parts() -> None:
    chunks = published(Chunk("s", "lo", 3), Chunk("s", "Hello", 0), Chunk("s", " you", 5))
    assert shown(fold(chunks)) == [(3, "Hello you", 0, "")]
    assert shown(fold(chunks[:1])) == [(1, "lo", 3, "")]


def test_the_end_of_a_dead_producer_ends_its_text_and_what_it_writes_afterwards_does_not_count() -> None:
    chunks = published(
        Chunk("s", "Hel", 0), Chunk("s", "", end="aborted"), Chunk("s", "lo", 3), Chunk("s", "", 5, "done")
    )
    assert shown(fold(chunks)) == [(2, "Hel", 0, "aborted")]
    assert shown(fold(chunks[1:2])) == [(2, "", None, "aborted")]


def test_what_only_looks_like_a_chunk_stays_as_it_is() -> None:
    others = published(
        b'{"stream":"s"}',
        b'{"stream":"s","text":1}',
        b'{"stream":"s","text":"a","more":1}',
        b'{"stream":"',
        b'{"stream":"\xff"}',
    )
    assert fold(others) == tuple(others)
    assert fold([]) == ()
    text = Publication("a", 1, 0, "e", 0.0, Chunk("s", "a", 0).encode(), Format.TEXT)
    assert chunk_of(text) is None


def test_places_are_counted_as_javascript_counts() -> None:
    assert (units("abc"), units("é"), units("😀"), units("")) == (3, 1, 2, 0)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aé😀 ", max_size=4), max_size=12), st.data())
def test_any_cut_of_a_stream_is_joined_to_the_same_text(words: list[str], data: st.DataObject) -> None:
    chunks, text = [Chunk("s", "", 0)], ""
    for word in words:
        is_whole = data.draw(st.booleans())
        chunks.append(Chunk("s", text + word, 0) if is_whole else Chunk("s", word, units(text)))
        text += word
    chunks.append(Chunk("s", "", units(text), "done"))
    publications = published(*chunks)
    cut = random.Random(len(text)).randrange(len(publications) + 1)
    joined = fold([*fold(publications[:cut]), *fold(publications[cut:])])
    assert shown(joined) == shown(fold(publications)) == [(len(publications), text, 0, "done")]
