#!/usr/bin/env python3
"""Disturbs a running system with thousands of simulated functions, and shows how it recovers from each fault.

    tests/faults.py                                              2,000 functions, every fault
    tests/faults.py --functions 200 --fault killed --fault disk  only faults whose name contains "killed" or "disk"

The system has recovered when its agent decides for all functions again and does so for three ticks, by the outcomes that the
actuator counts. The table shows how long this took from the end of the fault, 0 if no tick was missed, and which checks of
readiness failed meanwhile. Fails if the system does not recover within three minutes, or if an allocation leaves the bounds
of its policy. A full disk needs root: the state folder is then a small tmpfs. Clocks are set by a library that `cc` builds from
clock.c and that the services load. `make build` builds what this runs.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from soak import ROOT, descendants

RECOVERS_WITHIN = 180
# Processes by the names of the kernel, which cuts them after 15 bytes.
PROCESSES = {
    "collector": "qscale-collecto",
    "agent": "qscale-agent",
    "actuator": "qscale-actuator",
    "promoter": "qscale-promoter",
    "platform": "qscale-simulate",
    "nats-server": "nats-server",
}
# Programs whose clock can be set.
CLOCKS = {"collector": "qscale-collector", "agent": "qscale-agent", "actuator": "qscale-actuator", "platform": "qscale-simulated"}
HOUR = 3600


class System:
    """`qscale up --backend sim`, and what its services report."""

    def __init__(self, folder, functions, tick):
        self.state, self.clocks, self.functions, self.tick = folder / "state", folder / "clocks", functions, tick
        nats = subprocess.run([ROOT / "deploy/tools.sh"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        self.environment = dict(os.environ, QSCALE_STATE=str(self.state), NATS_SERVER_BIN=nats.stdout.strip())
        self.clocks.mkdir()
        library = self.clocks / "clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests/clock.c", "-ldl"], check=True)
        self.set_clocks(CLOCKS, 0)
        self.environment.update(LD_PRELOAD=str(library), QSCALE_TEST_CLOCKS=str(self.clocks))
        command = [ROOT / "target/debug/qscale", "up", "--backend", "sim", "--functions", str(functions), "--tick", f"{tick}s", "--plain"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def set_clocks(self, services, seconds):
        """Sets the clocks of `services` forward by `seconds`. The services have mapped the files, so these are changed in place."""
        for service in services:
            file = os.open(self.clocks / CLOCKS[service], os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(file, seconds.to_bytes(8, sys.byteorder, signed=True), 0)
            os.close(file)

    def qscale(self, *arguments):
        """Output of a command, which need not succeed."""
        command = [ROOT / "target/debug/qscale", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120).stdout

    def get(self, service, path):
        """Body of an answer of `service`; None without one."""
        try:
            addresses = json.loads((self.state / "addresses.json").read_text())
            address = addresses["platform"] if service == "platform" else addresses["health"][service]
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except (OSError, ValueError, KeyError):
            return None

    def decided(self):
        """Outcomes of the agent's Actions since the actuator started; None if it does not answer."""
        metrics = self.get("actuator", "/metrics")
        if metrics is None:
            return None
        return sum(map(int, re.findall(r'^qscale_actuator_outcomes_total\{[^}]*source="agent"\} (\d+)', metrics, re.MULTILINE)))

    def process_of(self, service):
        """Id of the process of `service`; None if it does not run."""
        found = descendants(self.process.pid).items()
        return next((process for process, name in found if name == PROCESSES[service]), None)

    def failing(self):
        """Failing checks of readiness, such as "actuator: platform"."""
        found = set()
        for service in ("collector", "agent-dqn", "actuator", "promoter", "platform"):
            body = self.get(service, "/readyz")
            if body is None:
                found.add(f"{service}: no answer")
                continue
            with contextlib.suppress(ValueError):
                found.update(f"{service}: {check}" for check, holds in json.loads(body).items() if holds is not True)
        return found

    def out_of_bounds(self):
        """Allocations outside the bounds of their policies."""
        bounds = {f"{policy['namespace']}/{policy['name']}": policy["bounds"] for policy in json.loads(self.qscale("policy", "list", "--json"))}
        found = []
        for function in json.loads(self.qscale("function", "list", "--json")):
            name = f"{function['spec']['namespace']}/{function['spec']['name']}"
            for part, value in function["desired"].items():
                limits = bounds[name][part]
                if not limits["min"] <= value <= limits["max"]:
                    found.append(f"{name}: {part} = {value}, must be {limits['min']} to {limits['max']}")
        return found

    def until_decided(self, limit):
        """Seconds until the agent decides for all functions, and does so for three ticks; None after `limit` seconds."""
        started, samples = time.monotonic(), []
        while time.monotonic() - started < limit:
            count, now = self.decided(), time.monotonic()
            if count is None or (samples and count < samples[-1][1]):
                samples = []  # The actuator does not run, or was started again and counts from zero.
            if count is not None:
                samples.append((now, count))
                # The readings and the decisions of a tick take a part of one.
                before = [sample for sample in samples if sample[0] <= now - 3.5 * self.tick]
                if before and count - before[-1][1] >= 3 * self.functions:
                    return max(before[-1][0] - started, 0)
            time.sleep(0.5)
        return None

    def stop(self):
        """Ends the system; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=180)
        self.process.kill()
        return self.process.wait()


def send(system, service, number):
    """Sends a signal to the process of `service`, if it runs; returns its id."""
    process = system.process_of(service)
    with contextlib.suppress(ProcessLookupError):
        if process:
            os.kill(process, number)
    return process


def kill(system, service):
    """Kills `service`; `qscale up` starts it again."""
    send(system, service, signal.SIGKILL)


def pause(system, service):
    """Stops `service` for 30 seconds; `qscale up` replaces it if it does not answer for too long."""
    process = send(system, service, signal.SIGSTOP)
    time.sleep(30)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def outage(system):
    """Kills every nats-server that `qscale up` starts for two minutes."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        send(system, "nats-server", signal.SIGKILL)
        time.sleep(0.2)


def stores(system):
    """Folder with a folder of files for each stream and bucket."""
    return next((system.state / "nats").rglob("streams"))


def delete_stream(system, stream):
    """Deletes the files of a stream or bucket and kills nats-server, which so finds nothing."""
    shutil.rmtree(stores(system) / stream)
    kill(system, "nats-server")


def damage_streams(system):
    """Overwrites the middle of each message file with noise and kills nats-server."""
    for path in stores(system).rglob("*.blk"):
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.seek(size // 2)
            file.write(os.urandom(min(4096, size // 2)))
    kill(system, "nats-server")


def fill_disk(system):
    """Fills the disk of the state folder for a minute."""
    filler = system.state / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    time.sleep(60)
    filler.unlink()


def step_clocks(system, services, seconds):
    """Sets the clocks of `services` by `seconds` for 30 seconds."""
    system.set_clocks(services, seconds)
    time.sleep(30)
    system.set_clocks(services, 0)


FAULTS = {
    **{f"{service} killed": functools.partial(kill, service=service) for service in PROCESSES},
    **{f"{service} stopped for 30 s": functools.partial(pause, service=service) for service in PROCESSES},
    "no nats-server for two minutes": outage,
    "stream of Outcomes deleted": functools.partial(delete_stream, stream="QSCALE_RECORD"),
    "bucket of policies deleted": functools.partial(delete_stream, stream="KV_qscale_policies"),
    "files of all streams damaged": damage_streams,
    "disk full for a minute": fill_disk,
    **{
        f"clock of {name} {text} for 30 s": functools.partial(step_clocks, services=services, seconds=seconds)
        for name, services in [*((service, [service]) for service in CLOCKS), ("all", list(CLOCKS))]
        for text, seconds in (("+1 h", HOUR), ("-1 h", -HOUR))
    },
}


def disturb(system, fault):
    """Causes `fault` and waits for recovery: seconds until it, and failing checks of readiness."""
    failing, over = set(), threading.Event()

    def observe():
        while not over.wait(1):
            failing.update(system.failing())

    observer = threading.Thread(target=observe)
    observer.start()
    try:
        fault(system)
        seconds = system.until_decided(RECOVERS_WITHIN)
    finally:
        over.set()
        observer.join()
    return seconds, failing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=2000)
    parser.add_argument("--tick", type=int, default=5, help="control interval in seconds")
    parser.add_argument("--fault", action="append", help="part of the names of the faults to cause; repeatable; by default all")
    options = parser.parse_args()
    faults = {name: fault for name, fault in FAULTS.items() if not options.fault or any(part in name for part in options.fault)}
    if not faults:
        parser.error(f"--fault {options.fault}, must be part of one of: {', '.join(FAULTS)}")
    failed = []
    with contextlib.ExitStack() as cleanup:
        folder = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="qscale-faults-")))
        if any("disk" in name for name in faults):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=700", "none", folder], check=True)
            cleanup.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
        system = System(folder, options.functions, options.tick)
        cleanup.callback(system.stop)
        if system.until_decided(RECOVERS_WITHIN) is None:
            raise SystemExit("the system does not decide for all functions after its start")
        print(f"{options.functions} functions, tick {options.tick} s")
        print(f"{'fault':36}{'seconds to recovery':>20}  checks that failed meanwhile", flush=True)
        for name, fault in faults.items():
            seconds, failing = disturb(system, fault)
            print(f"{name:36}{'never' if seconds is None else f'{seconds:.1f}':>20}  {', '.join(sorted(failing)) or 'none'}", flush=True)
            wrong = system.out_of_bounds()
            if seconds is None:
                failed.append(f"{name}: no recovery within {RECOVERS_WITHIN} s; readiness: {sorted(system.failing())}")
            if wrong:
                failed.append(f"{name}: {len(wrong)} allocations out of bounds, such as {wrong[0]}")
            # Later faults meet a system that has settled.
            time.sleep(2 * options.tick)
        if system.stop() != 0:
            failed.append("qscale up did not end without an error")
    for failure in failed:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
