"""What is refused with 429 and when to come back, by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.request_options import RequestOptions
from octavo.server.errors import APIError
from octavo.server.guards.admission import Admission, Ticket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def busy(policy: str = "fcfs", **settings) -> tuple[Admission, Clock]:
    """An admission that has seen 1,000 prompt tokens a second for ten seconds."""
    clock = Clock()
    admission = Admission(policy=policy, clock=clock, **settings)
    for _ in range(10):
        [ticket] = admission.enter([1000])
        clock.now += 1.0
        ticket.started()
    return admission, clock


def refusal(admission: Admission, *lengths: int, **who) -> APIError:
    with pytest.raises(APIError) as caught:
        admission.enter(lengths, RequestOptions(**who))
    assert caught.value.status == 429
    return caught.value


def test_the_rate_is_what_was_computed_while_something_waited():
    admission, clock = busy()
    clock.now += 1000.0
    assert admission.rate.tokens_per_second == pytest.approx(1000.0)


def test_a_request_that_would_be_late_is_told_when_to_come_back():
    admission, _ = busy(target_ttft=2.0)
    admission.enter([1500])
    assert admission.enter([500])
    error = refusal(admission, 3000)
    assert error.headers == {"Retry-After": "3"}
    assert "about 5.0 s, over this server's target of 2 s (--target-ttft)" in error.message
    assert admission.num_waiting == 2


def test_who_finds_nobody_waiting_is_let_in():
    admission, _ = busy(target_ttft=2.0)
    assert admission.enter([100_000])
    refusal(admission, 1)


def test_room_comes_with_first_tokens_and_with_those_who_leave():
    admission, _ = busy(target_ttft=2.0)
    [first], [second] = admission.enter([1000]), admission.enter([1000])
    refusal(admission, 1000)
    first.started()
    [third] = admission.enter([1000])
    refusal(admission, 1000)
    second.leave()
    third.leave()
    third.leave()
    assert admission.num_waiting == 0


def test_nothing_is_refused_before_a_rate_is_known():
    admission = Admission(target_ttft=0.001, clock=Clock())
    for _ in range(100):
        admission.enter([1_000_000])


def test_the_queue_is_bounded():
    admission = Admission(most_waiting=3)
    admission.enter([5, 5])
    admission.enter([5, 5])
    error = refusal(admission, 1)
    assert error.headers == {"Retry-After": "1"}
    assert "4 prompts wait for their first token already (--max-waiting)" in error.message


def test_by_priority_only_those_before_it_count():
    admission, _ = busy("priority", target_ttft=2.0)
    admission.enter([1900], RequestOptions(priority=5))
    assert admission.enter([500], RequestOptions(priority=1))
    refusal(admission, 500, priority=5)


def test_by_fair_share_the_flood_of_another_does_not_count():
    admission, _ = busy("fair", target_ttft=2.0)
    for _ in range(2):
        admission.enter([900], RequestOptions(user="flood"))
    refusal(admission, 900, user="flood")
    # Of the flood no more is computed before it than it has itself.
    assert admission.enter([900], RequestOptions(user="quiet"))
    refusal(admission, 900, user="quiet")


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.0, 3.0)), max_size=60))
def test_at_a_steady_rate_who_is_let_in_is_served_in_time(arrivals):
    """A machine that computes 1,000 tokens a second, first come first served, as it was measured."""
    admission, clock = busy(target_ttft=2.0)
    queue: list[tuple[float, Ticket]] = []  # When it is done.
    machine_free = clock.now
    for length, pause in arrivals:
        until = clock.now + pause
        while queue and queue[0][0] <= until:
            done, ticket = queue.pop(0)
            clock.now = done
            ticket.started()
        clock.now = until
        alone = not queue
        try:
            [ticket] = admission.enter([length])
        except APIError:
            continue
        machine_free = max(machine_free, clock.now) + length / 1000
        queue.append((machine_free, ticket))
        if not alone:
            # What the machine has done of the first one is not known: it can only be earlier.
            assert machine_free - clock.now <= 2.0 + 1e-6
