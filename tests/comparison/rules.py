#!/usr/bin/env python3
"""Effect of the choice among idle replicas on cold starts: rules.py INVOCATIONS KEEP_ALIVE_S STARTUP_S.

The simulators of this folder differ only in the choice among several idle replicas. A minimal model with the rule of each simulator shows how many
cold starts that choice alone explains.
"""

import heapq
import sys
from collections import defaultdict


class Newest:
    """SimFaaS: the replica that was created last."""

    def __init__(self):
        self.idle = []

    def freed(self, replica):
        self.idle.append(replica)

    def gone(self, replica):
        self.idle.remove(replica)

    def created(self, replica):
        pass

    def left(self, replica):
        pass

    def choose(self):
        return max(self.idle, key=lambda replica: replica.number, default=None)


class FirstOfSwaps(Newest):
    """DSLab-FaaS: the first of an index set, in which a removed element is replaced by the last one."""

    def gone(self, replica):
        place = self.idle.index(replica)
        self.idle[place] = self.idle[-1]
        self.idle.pop()

    def choose(self):
        return self.idle[0] if self.idle else None


class InTurn(Newest):
    """Qscale, as the local platform's gateway: the next after the one before."""

    def __init__(self):
        super().__init__()
        self.taken, self.turn = [], 0

    def created(self, replica):
        replica.slot = self.taken.index(False) if False in self.taken else len(self.taken)
        self.taken[replica.slot : replica.slot + 1] = [True]

    def left(self, replica):
        self.taken[replica.slot] = False

    def choose(self):
        if not self.idle:
            return None
        turn = self.turn if self.turn < len(self.taken) else 0
        replica = min(self.idle, key=lambda replica: (replica.slot - turn) % len(self.taken))
        self.turn = replica.slot + 1
        return replica


class Replica:
    def __init__(self, number):
        self.number, self.until = number, None


def cold_starts(arrivals, rule, keep_alive, startup):
    events, cold = [], 0
    for at, duration in arrivals:
        while events and events[0][0] <= at:
            time, _, ends, replica = heapq.heappop(events)
            if ends:
                replica.until = time + keep_alive
                heapq.heappush(events, (replica.until, replica.number, False, replica))
                rule.freed(replica)
            elif replica.until == time:
                rule.gone(replica)
                rule.left(replica)
        replica = rule.choose()
        if replica is None:
            replica, cold = Replica(cold), cold + 1
            duration += startup
            rule.created(replica)
        else:
            rule.gone(replica)
        # It is not let go any more.
        replica.until = None
        heapq.heappush(events, (at + duration, replica.number, True, replica))
    return cold


def main():
    path, keep_alive, startup = sys.argv[1], *(round(float(seconds) * 1e9) for seconds in sys.argv[2:])
    functions = defaultdict(list)
    with open(path) as lines:
        for line in lines:
            function, at, duration = (int(field) for field in line.split(","))
            functions[function].append((at, duration))
    for rule in (InTurn, FirstOfSwaps, Newest):
        total = sum(cold_starts(arrivals, rule(), keep_alive, startup) for arrivals in functions.values())
        print(f"{total:8} cold starts, {rule.__doc__}")


if __name__ == "__main__":
    main()
