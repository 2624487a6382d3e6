"""Who is where, from messages in one order; time is that of the messages."""

from __future__ import annotations

from tidewire.backends.base import JoinResult
from tidewire.backends.nats.roster import Claim, Present, Roster
from tidewire.messages import Announcement, Departure, Member

ANN, ANN_TOO, BOB = Member("1", "ann"), Member("2", "ann"), Member("3", "bob")


class Log:
    """Says things one after another, a tenth of a second apart."""

    def __init__(self, lease: float = 1.0) -> None:
        self.roster = Roster(lease)
        self.sequence = 0
        self.time = 100.0

    def next(self, seconds: float = 0.1) -> int:
        self.sequence += 1
        self.time += seconds
        self.roster.hear(self.time)
        return self.sequence

    def touch(self, node: str) -> None:
        self.roster.touch(node, self.next())

    def join(
        self, node: str, member: Member, announcement: Announcement | None = None, channel: str = "a"
    ) -> JoinResult:
        return self.roster.join(Present(channel, node, member, announcement), self.next())

    def outlive(self, node: str, steps: int = 12) -> None:
        """Let one node be heard for longer than a lease."""
        for _ in range(steps):
            self.touch(node)

    def claim(self, claim: Claim, token: str = "t") -> Claim:
        named = Claim(
            Departure(claim.departure.channel, claim.departure.user, token, claim.departure.announcement),
            claim.claimer,
            claim.members,
            claim.nodes,
            sequence := self.next(),
        )
        assert sequence
        return self.roster.claim(named)


def two_nodes() -> Log:
    log = Log()
    log.touch("dead")
    log.touch("live")
    return log


def test_a_node_is_dead_when_others_are_heard_for_a_lease_and_it_is_not() -> None:
    log = two_nodes()
    log.outlive("live", 9)
    assert not log.roster.is_dead("dead")
    log.outlive("live", 3)
    assert log.roster.is_dead("dead")
    assert not log.roster.is_dead("live")
    assert log.roster.is_dead("never heard of")


def test_nobody_is_dead_because_the_store_was_away() -> None:
    log = two_nodes()
    log.join("dead", ANN)
    log.next(3_600.0)
    log.touch("live")
    assert not log.roster.is_dead("dead")
    assert log.roster.departed("live", 10) == []


def test_departed_users_are_claimed_with_the_newest_announcement() -> None:
    log = two_nodes()
    log.join("dead", ANN, Announcement(b"old"))
    log.join("dead", ANN_TOO, Announcement(b"new"))
    log.join("live", BOB)
    log.outlive("live")
    (claim,) = log.roster.departed("live", 10)
    assert (claim.departure.user, claim.departure.announcement) == ("ann", Announcement(b"new"))
    assert not log.claim(claim).is_void
    assert log.roster.members("a") == [BOB]
    assert log.roster.departed("live", 10) == []
    log.roster.forget("a", "ann")
    assert not log.roster.claims


def test_a_claim_is_void_when_the_user_came_back_before_it_was_taken() -> None:
    log = two_nodes()
    log.join("dead", ANN)
    log.outlive("live")
    (claim,) = log.roster.departed("live", 10)
    assert log.join("live", ANN_TOO) == JoinResult(first=False, connections=1)
    assert log.claim(claim).is_void
    assert log.roster.members("a") == [ANN, ANN_TOO]
    assert [present.member for present in log.roster.superseded()] == [ANN]


def test_a_claim_is_void_when_the_node_was_heard_again_before_it_was_taken() -> None:
    log = two_nodes()
    log.join("dead", ANN)
    log.outlive("live")
    (claim,) = log.roster.departed("live", 10)
    log.touch("dead")
    assert log.claim(claim).is_void
    assert log.roster.members("a") == [ANN]


def test_a_claim_that_is_not_forgotten_is_overdue_after_a_lease_and_stays_what_it_was() -> None:
    log = two_nodes()
    log.join("dead", ANN)
    log.outlive("live")
    (claim,) = log.roster.departed("live", 10)
    log.claim(claim)
    assert log.roster.overdue() == []
    log.outlive("live")
    (overdue,) = log.roster.overdue()
    log.join("live", ANN_TOO)
    assert not log.claim(overdue).is_void


def test_a_node_without_members_is_buried() -> None:
    log = two_nodes()
    log.outlive("live")
    assert [node for node, _ in log.roster.dead_without_members()] == ["dead"]
    log.roster.bury("dead")
    assert not log.roster.has_lease("dead")
    assert log.roster.dead_without_members() == []


def test_who_joins_again_keeps_its_place_and_may_change_its_user() -> None:
    log = two_nodes()
    log.join("live", ANN)
    log.join("live", BOB)
    assert log.join("live", Member("1", "eve")) == JoinResult(first=True, connections=1)
    assert [member.user for member in log.roster.members("a")] == ["eve", "bob"]
    assert log.roster.count("a", "ann") == 0
    assert log.roster.leave("a", "1")
    assert not log.roster.leave("a", "1")
