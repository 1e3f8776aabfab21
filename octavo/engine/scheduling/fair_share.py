"""Fair share: who is served next follows from what each user has had, in tokens, not from who came first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from operator import attrgetter

from octavo.engine.sequence import Sequence

PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2
"""What a prompt token and an output token cost; the paper's weights."""

REMEMBERED = 4096
"""Users without a sequence whose counters are kept, the latest to leave."""
_MOST_SHARES = 64
"""Virtual time goes on at this share of all service at least, though more users than that be here."""

_order = attrgetter("order")


@dataclass(slots=True)
class _User:
    """A user's counter, waiting sequences (in order of their own priority, then arrival), running ones."""

    served: float
    waiting: list[Sequence] = field(default_factory=list)
    num_running: int = 0


class FairShare:
    """Virtual token counters: the user with the smallest is served next.

    A counter grows by the tokens that a user's sequences cost: those of the prompt when it is admitted
    (what the prefix cache gives is free), each output token as it comes. When something arrives of a user
    who has nothing waiting, the counter is lifted to the smallest of those who wait: having been away
    earns no credit. So the service of two users who keep something waiting differs by a bounded number of
    tokens, however much either sends. Source: VTC (Sheng et al., Fairness in Serving Large Language
    Models, OSDI 2024), algorithm 2.

    Two things go beyond the paper. The counter is lifted to at least the virtual time of weighted fair
    queueing (Demers et al., 1989), which is what each user would have if all who are here had been served
    alike: without, an endless row of new users would starve one who was served before. And memory and
    places in the batch are shared as well: the latest sequence of the user who was served most is the
    first to give way, and it gives way to a waiting one as soon as its user is ahead by more than computing
    it again costs, so that every swap is paid for.
    """

    def __init__(self) -> None:
        self.running: list[Sequence] = []
        self._num_waiting = 0
        self._users: dict[str, _User] = {}
        self._away: OrderedDict[str, float] = OrderedDict()
        self._virtual_time = 0.0

    @property
    def num_waiting(self) -> int:
        """How many sequences wait."""
        return self._num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        """Those of the least served user first, as counters are now."""
        heads = [
            (user.served, user.waiting[0].order, 0, user) for user in self._users.values() if user.waiting
        ]
        heapify(heads)
        while heads:
            served, _, position, user = heads[0]
            yield user.waiting[position]
            position += 1
            if position < len(user.waiting):
                heapreplace(heads, (served, user.waiting[position].order, position, user))
            else:
                heappop(heads)

    def served(self, user: str) -> float:
        """A user's counter, in weighted tokens."""
        return self._users[user].served if user in self._users else self._away.get(user, 0.0)

    def arrive(self, sequence: Sequence) -> None:
        """Lifts the counter of a user who has nothing waiting, and queues the sequence."""
        user = self._users.get(sequence.options.user)
        if user is None:
            user = self._users[sequence.options.user] = _User(self._away.pop(sequence.options.user, 0.0))
        if not user.waiting:
            others = [each.served for each in self._users.values() if each.waiting]
            user.served = max(user.served, self._virtual_time, min(others, default=0.0))
        self._enqueue(user, sequence)

    def admit(self, sequence: Sequence, num_tokens: int) -> None:
        """Charges what is to be computed of the prompt."""
        user = self._users[sequence.options.user]
        self._dequeue(user, sequence)
        self.running.append(sequence)
        user.num_running += 1
        self._charge(user, PROMPT_WEIGHT * num_tokens)

    def preempt(self, sequence: Sequence) -> None:
        """Lifts nothing: the user had this one all the time."""
        user = self._users[sequence.options.user]
        self.running.remove(sequence)
        user.num_running -= 1
        self._enqueue(user, sequence)

    def remove(self, sequence: Sequence, *, runs: bool) -> None:
        """Remembers the counter of a user who has no other."""
        user = self._users[sequence.options.user]
        if runs:
            self.running.remove(sequence)
            user.num_running -= 1
        else:
            self._dequeue(user, sequence)
        if not user.num_running and not user.waiting:
            del self._users[sequence.options.user]
            self._away[sequence.options.user] = user.served
            if len(self._away) > REMEMBERED:
                self._away.popitem(last=False)

    def arrange(self) -> None:
        """Those of the most served user last, the latest of them last of all."""
        users = self._users
        self.running.sort(key=lambda each: (users[each.options.user].served, each.order))

    def yields(self, running: Sequence, waiting: Sequence) -> bool:
        """When the user of the one is ahead of the other's by more than computing the one again costs."""
        ahead = self._users[running.options.user].served - self._users[waiting.options.user].served
        return ahead > PROMPT_WEIGHT * len(running.token_ids)

    def computed(self, sequences: list[Sequence], accepted: Mapping[Sequence, int]) -> None:
        """Charges its output tokens to each that gets some."""
        for sequence in sequences:
            if sequence.num_computed_tokens == len(sequence.token_ids):
                num_tokens = 1 + accepted.get(sequence, 0)
                self._charge(self._users[sequence.options.user], OUTPUT_WEIGHT * num_tokens)

    def _charge(self, user: _User, cost: float) -> None:
        user.served += cost
        self._virtual_time += cost / min(len(self._users), _MOST_SHARES)

    def _enqueue(self, user: _User, sequence: Sequence) -> None:
        insort(user.waiting, sequence, key=_order)
        self._num_waiting += 1

    def _dequeue(self, user: _User, sequence: Sequence) -> None:
        del user.waiting[bisect_left(user.waiting, sequence.order, key=_order)]
        self._num_waiting -= 1
