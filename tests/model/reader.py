"""What one client understands of one channel, and whether it is what the promise says."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ("HISTORY", "Kept", "Reader", "Span")

#: Publications that history shows, in every channel.
HISTORY = 30


@dataclass
class Kept:
    """What a channel's publishers know: which texts were acknowledged where, and which may be anywhere."""

    acknowledged: dict[str, dict[int, str]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    #: The epochs in which everything up to an offset was removed on purpose.
    removed: dict[str, int] = field(default_factory=dict)
    #: The epochs that the store has lost.
    lost: set[str] = field(default_factory=set)

    def top(self, epoch: str) -> int:
        return max(self.acknowledged.get(epoch, {}), default=0)


@dataclass
class Span:
    """A part of a channel that a client was given as whole: after one offset, up to another."""

    epoch: str
    after: int
    upto: int
    seen: list[int] = field(default_factory=list)


class Reader:
    """Reads what a client was shown of a channel; raises AssertionError where it breaks the promise."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self.spans: list[Span] = []
        self.texts: dict[tuple[str, int], str] = {}
        #: What was asked for with the subscribe whose reply is awaited: a position, or None.
        self.since: tuple[int, str] | None = None
        #: Publications of the reply that are still to come.
        self._replied = 0
        self._is_told = False

    @property
    def position(self) -> tuple[int, str] | None:
        return (self.spans[-1].upto, self.spans[-1].epoch) if self.spans else None

    @property
    def replies(self) -> int:
        return len(self.spans)

    def subscribed(self, offset: int, epoch: str, recovered: str, count: int) -> None:
        """Read a reply to a subscribe."""
        if recovered == "True":
            assert self.since is not None
            assert self.since[1] == epoch, "recovered in another epoch"
            self.spans.append(Span(epoch, self.since[0], self.since[0]))
            self._whole_to = offset
        else:
            assert (recovered == "False") == (self.since is not None), "the answer fits the question"
            assert self.since is None or self._may_be_lost(self.since), f"{self.since} could have been recovered"
            # history is shown as far as it goes; what comes after it is whole
            self.spans.append(Span(epoch, offset, offset))
            self._whole_to = offset
        self._replied = count
        self._is_told = False
        if not count:
            self.spans[-1].upto = offset

    def _may_be_lost(self, since: tuple[int, str]) -> bool:
        """Say whether what comes after a position may not be there any more."""
        offset, epoch = since
        kept = self._kept
        later = [found for found in kept.acknowledged.get(epoch, {}) if found > offset]
        is_gone = kept.removed.get(epoch, 0) > offset or epoch in kept.lost or epoch not in kept.acknowledged
        return is_gone or len(later) + len(kept.unknown) >= HISTORY

    def published(self, offset: int, epoch: str, text: str) -> None:
        """Read a publication."""
        known = self._kept.acknowledged.get(epoch, {}).get(offset)
        if known is not None:
            assert known == text, f"{offset} shows {text!r}, and was acknowledged as {known!r}"
        assert self.texts.setdefault((epoch, offset), text) == text, f"{offset} shows two texts"
        span = self.spans[-1]
        if self._replied:
            self._replied -= 1
            if span.after == self._whole_to and offset <= span.after:  # history before a span
                return
            assert epoch == span.epoch
            self._extend(span, offset)
            if not self._replied:
                assert span.upto <= self._whole_to
                span.upto = self._whole_to
            return
        if self._is_told:
            self._is_told = False
            self.spans.append(Span(epoch, offset - 1, offset, [offset]))
            return
        assert epoch == span.epoch, f"epoch {epoch} came without a word, after {span.epoch}"
        self._extend(span, offset)

    @staticmethod
    def _extend(span: Span, offset: int) -> None:
        assert offset > span.upto, f"{offset} after {span.upto}: twice, or out of order"
        span.upto = offset
        span.seen.append(offset)

    def insufficient(self) -> None:
        """Read that a gap could not be filled."""
        self._is_told = True

    def check(self) -> None:
        """Everything acknowledged inside of a whole span was shown."""
        for span in self.spans:
            acknowledged = {
                offset for offset in self._kept.acknowledged.get(span.epoch, {}) if span.after < offset <= span.upto
            }
            missing = sorted(acknowledged - set(span.seen))
            assert not missing, f"acknowledged and not shown, nor told: {missing} of {span}"

    def has_reached(self, epoch: str, offset: int) -> bool:
        """The newest acknowledged publication was shown, or something later, or a gap was told."""
        if self._is_told:
            return True
        position = self.position
        return position is not None and not self._replied and position[1] == epoch and position[0] >= offset
