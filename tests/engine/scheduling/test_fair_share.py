"""Fair share: what the VTC paper proves of its counters, and that nobody starves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scheduler_rig import Rig, make_sequence, settings_of

from octavo.engine.scheduling import fair_share
from octavo.engine.scheduling.fair_share import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairShare
from octavo.engine.sequence import Sequence, Status


def fair_rig(num_blocks: int = 64, **rest) -> Rig:
    return Rig(settings_of(policy="fair", **rest), num_blocks, caching=False)


class Backlog:
    """Users who always have something waiting; counts the service that each has had."""

    def __init__(self, rig: Rig, shapes: dict[str, tuple[int, int]]) -> None:
        """`shapes` are the lengths of each user's prompts and outputs."""
        self.rig = rig
        self.shapes = shapes
        self.service: Counter[str] = Counter()
        self._number = 0

    def step(self, users=None) -> None:
        waiting = Counter(sequence.options.user for sequence in self.rig.waiting)
        for user in users or self.shapes:
            for _ in range(10 - waiting[user]):
                self._number += 1
                prompt, output = self.shapes[user]
                sequence = make_sequence(
                    self._number, [self._number % 900] * prompt, output, user=user, arrival_time=self.rig.now
                )
                self.rig.add(sequence)
        before = set(self.rig.scheduler.running)
        step = self.rig.step()
        for sequence in step.sequences:
            if sequence not in before and not sequence.scheduled_time:
                sequence.scheduled_time = 1.0
                self.service[sequence.options.user] += PROMPT_WEIGHT * sequence.num_prompt_tokens
            if sequence.status is Status.FINISHED or sequence.num_computed_tokens == len(sequence) - 1:
                self.service[sequence.options.user] += OUTPUT_WEIGHT


shape = st.tuples(st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=40, deadline=None)
@given(shape, shape, st.integers(1, 8), st.integers(10, 40))
def test_backlogged_users_get_the_same_within_the_papers_bound(
    one, other, max_num_seqs: int, num_blocks: int
):
    """Theorem 4.4: at most 2 max(w_p x longest prompt, w_q x tokens in memory) apart, in any interval."""
    rig = fair_rig(num_blocks, max_num_seqs=max_num_seqs)
    backlog = Backlog(rig, {"one": one, "other": other})
    bound = 2 * max(PROMPT_WEIGHT * 60, OUTPUT_WEIGHT * 16 * num_blocks)
    for _ in range(400):
        backlog.step()
        assert abs(backlog.service["one"] - backlog.service["other"]) <= bound
    assert min(backlog.service.values()) > 0


def test_a_flood_does_not_delay_another_user():
    rig = fair_rig(max_num_seqs=2)
    flood = [make_sequence(number, [number] * 30, 10, user="flood") for number in range(50)]
    rig.add(*flood)
    for _ in range(5):
        rig.step()
    rig.add(quiet := make_sequence(100, [7] * 30, 10, user="quiet", arrival_time=rig.now))
    for _ in range(25):
        rig.step()
    assert quiet.status is Status.FINISHED


def test_being_away_earns_no_credit():
    rig = fair_rig(max_num_seqs=1)
    backlog = Backlog(rig, {"busy": (20, 10), "back": (20, 10)})
    backlog.step(["back"])
    for _ in range(200):
        backlog.step(["busy"])
    before = backlog.service["busy"]
    for _ in range(100):
        backlog.step()
    # A request costs 40 and takes ten steps: each has had half of the hundred, whoever was here before.
    assert 160 <= backlog.service["busy"] - before <= 240


class Counters:
    """Counters without a scheduler: sequences come, and run with as many tokens as the test says."""

    def __init__(self) -> None:
        self.policy = FairShare()
        self._number = 0

    def arrive(self, user: str) -> Sequence:
        self._number += 1
        sequence = make_sequence(self._number, [1], user=user)
        self.policy.arrive(sequence)
        return sequence

    def run(self, user: str, num_tokens: int) -> None:
        self.policy.admit(self.arrive(user), num_tokens)


def test_a_new_user_begins_where_those_who_wait_are():
    counters = Counters()
    counters.run("little", 0)
    counters.run("much", 1000)
    counters.arrive("much")
    counters.arrive("new")
    assert counters.policy.served("new") == counters.policy.served("much") == 1000


def test_a_user_who_had_more_than_those_who_wait_keeps_the_counter():
    counters = Counters()
    counters.run("little", 0)
    counters.run("much", 1000)
    counters.arrive("new")
    counters.arrive("much")
    assert counters.policy.served("much") == 1000
    assert counters.policy.served("new") == 500  # Half of all that two users had.


def test_having_one_that_runs_earns_no_credit_either():
    counters = Counters()
    counters.run("little", 0)
    for _ in range(5):
        counters.run("much", 1000)
    counters.arrive("much")
    counters.arrive("little")
    assert counters.policy.served("little") == 5000


def test_priority_and_arrival_order_a_users_own():
    rig = fair_rig(max_num_seqs=1)
    rig.add(make_sequence(0, [1], 1, user="a", priority=5))
    rig.add(make_sequence(1, [1], 1, user="a", arrival_time=2.0))
    rig.add(make_sequence(2, [1], 1, user="a", arrival_time=1.0))
    assert [rig.step().sequences[0].request_id for _ in range(3)] == ["2", "1", "0"]


def test_memory_is_taken_from_the_user_who_was_served_most():
    rig = fair_rig(num_blocks=12, max_num_seqs=8)
    heavy = [make_sequence(number, [number] * 30, 60, user="heavy") for number in range(3)]
    rig.add(*heavy)
    rig.step()
    rig.add(light := make_sequence(9, [9] * 40, 30, user="light", arrival_time=1.0))
    preempted: list[Sequence] = []
    while light.status is not Status.FINISHED:
        preempted += rig.step().preempted
    assert preempted
    assert light not in preempted
    assert heavy[0] not in preempted[:1]


def test_nothing_is_admitted_in_a_step_that_preempts_for_want_of_blocks():
    """Else what was just taken would be handed on at once, and taken again in the next step."""
    rig = fair_rig(num_blocks=8, budget=256)
    grows, goes = make_sequence(0, [1] * 48, 20, user="a"), make_sequence(1, [2] * 80, 20, user="b")
    rig.add(grows, goes)
    rig.step()
    rig.add(waits := make_sequence(2, [3] * 20, 20, user="c", arrival_time=1.0))
    step = rig.step()
    assert (step.preempted, step.sequences) == ([goes], [grows])
    assert waits in rig.step().sequences


def test_a_place_is_given_up_only_when_it_is_paid_for():
    rig = fair_rig(max_num_seqs=1)
    rig.add(hog := make_sequence(0, [1] * 20, 100, user="hog"))
    rig.step()
    rig.add(other := make_sequence(1, [2] * 20, 4, user="other", arrival_time=1.0))
    swapped = 0
    while not rig.step().preempted:
        swapped += 1
    # `other` was lifted to what hog had had; two a token since then must be over one for each of its tokens.
    assert len(hog) == 20 + 1 + swapped
    assert swapped == 22
    assert other.status is Status.RUNNING
    rig.finish()
    assert rig.scheduler.num_preemptions == 1


def test_an_endless_row_of_new_users_does_not_starve_one_who_was_served():
    rig = fair_rig(max_num_seqs=1)
    for number in range(5):
        rig.add(make_sequence(number, [1] * 100, 20, user="regular"))
    rig.finish()
    rig.add(*(make_sequence(number, [2] * 5, 2, user=f"new{number}") for number in range(10, 13)))
    rig.add(regular := make_sequence(9, [1] * 100, 20, user="regular"))
    for number in range(20, 2000):
        if rig.scheduler.num_waiting < 10:
            rig.add(make_sequence(number, [2] * 5, 2, user=f"new{number}", arrival_time=rig.now))
        rig.step()
        if regular.status is Status.FINISHED:
            return
    raise AssertionError("starved")


def test_users_without_a_sequence_are_forgotten_but_for_their_counter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fair_share, "REMEMBERED", 100)
    rig = fair_rig(max_num_seqs=8)
    for number in range(300):
        rig.add(make_sequence(number, [1], 1, user=f"user{number}"))
        if number % 8 == 7:
            rig.step()
    rig.finish()
    policy = rig.scheduler._policy
    assert isinstance(policy, FairShare)
    assert not policy._users
    assert len(policy._away) == 100
