"""Runs a list of invocations through SimFaaS 0.2.2: simfaas_driver.py INVOCATIONS KEEP_ALIVE_S STARTUP_S. Prints one line of JSON.

One simulator a function, as SimFaaS knows one function only; arrivals and durations are replayed instead of drawn. Reading the list is not timed.
"""

import json
import sys
import time
from collections import defaultdict

from simfaas.ServerlessSimulator import ServerlessSimulator
from simfaas.SimProcess import SimProcess


class Replay(SimProcess):
    """Yields what it is given, each with `extra`, and sums what it gave."""

    def __init__(self, values, extra=0.0):
        super().__init__()
        self.values, self.extra, self.sum = values, extra, 0.0

    def generate_trace(self):
        value = next(self.values) + self.extra
        self.sum += value
        return value


def gaps(times):
    before = 0.0
    for at in times:
        yield at - before
        before = at
    # The arrival that the simulator looks for after the last one.
    yield 1e12


def memory_kib(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def main():
    path, keep_alive, startup = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    functions = defaultdict(lambda: ([], []))
    with open(path) as lines:
        for line in lines:
            function, at, duration = line.split(",")
            times, durations = functions[int(function)]
            times.append(int(at) / 1e9)
            durations.append(int(duration) / 1e9)

    before, begin = memory_kib("VmRSS:"), time.process_time()
    invocations = cold = 0
    latency = 0.0
    for times, durations in functions.values():
        in_order = iter(durations)
        processes = {"cold_service_process": Replay(in_order, startup), "warm_service_process": Replay(in_order)}
        simulator = ServerlessSimulator(
            Replay(gaps(times)), expiration_threshold=keep_alive, max_time=times[-1], maximum_concurrency=10**9, **processes
        )
        simulator.generate_trace()
        invocations += simulator.total_req_count
        cold += simulator.total_cold_count
        latency += sum(process.sum for process in processes.values())
    spent = time.process_time() - begin
    print(json.dumps({
        "invocations": invocations,
        "cpu_s": spent,
        "held_bytes": (memory_kib("VmHWM:") - before) * 1024,
        "cold_starts": cold,
        "mean_latency_ms": latency / invocations * 1e3,
    }))


if __name__ == "__main__":
    main()
