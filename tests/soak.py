#!/usr/bin/env python3
"""Runs a whole system for a while, and shows memory, descriptors and files of its processes at four times.

    tests/soak.py --for 1h -- --load 20                                          a real hour
    tests/soak.py --for 24h -- --backend sim --functions 20 --speed 72           24 simulated hours in 20 minutes

`--for` is time of the system, which passes faster with `--speed`. What follows `--` is passed to `qscale up`, which
`make build` builds. Fails if a service grew by more than a quarter and 8 MiB in the last three quarters of the time
(nats-server in the last two fifths, because it grows until the streams are full), if it then had more than 16
descriptors more, or if it was restarted.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text):
    found = re.fullmatch(r"(\d+)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}, must be a number with s, m or h")
    return int(found[1]) * UNITS[found[2]]


def descendants(root):
    """Processes below `root`, by id, with their names."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            parents[int(entry)] = (int(rest[1]), name)
    found, level = {}, [root]
    while level:
        children = [process for process, (parent, _) in parents.items() if parent in level]
        found.update((process, parents[process][1]) for process in children)
        level = children
    return found


def measure(root, state):
    """Memory (KiB) and descriptors of each service, and the size of logs and store (KiB)."""
    processes = {}
    for process, name in {root: "qscale up", **descendants(root)}.items():
        if name.startswith("qscale-functi"):  # The kernel cuts names; replicas come and go.
            continue
        try:
            status = pathlib.Path("/proc", str(process), "status").read_text()
            files = len(os.listdir(f"/proc/{process}/fd"))
        except OSError:
            continue
        memory = re.search(r"VmRSS:\s+(\d+)", status)
        if memory:
            processes[f"{name} ({process})"] = (int(memory[1]), files)
    sizes = {}
    for part in ("logs", "nats"):
        files = [path for path in (state / part).rglob("*") if path.is_file()]
        sizes[part] = sum(path.stat().st_size for path in files if path.exists()) // 1024
    return processes, sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for", dest="duration", type=seconds, default=600, help="such as 10m")
    parser.add_argument("arguments", nargs="*", help="arguments of `qscale up`")
    options = parser.parse_args()
    speed = re.search(r"--speed[ =](\d+)", " ".join(options.arguments))
    lasts = options.duration / (int(speed[1]) if speed else 1)
    with tempfile.TemporaryDirectory(prefix="qscale-soak-") as folder:
        state = pathlib.Path(folder, "state")
        command = [ROOT / "target/debug/qscale", "up", "--for", f"{options.duration}s", "--json", *options.arguments]
        nats = subprocess.run([ROOT / "deploy/tools.sh"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        environment = dict(os.environ, QSCALE_STATE=str(state), NATS_SERVER_BIN=nats.stdout.strip())
        log = open(pathlib.Path(folder, "up.log"), "w+", encoding="utf-8")
        system = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        found, started = [], time.monotonic()
        # The start takes some seconds, and the last measurement comes before the end.
        for part in (0.05, 0.25, 0.6, 0.97):
            while time.monotonic() - started < lasts * part and system.poll() is None:
                time.sleep(0.2)
            found.append(measure(system.pid, state))
        try:
            status = system.wait(timeout=120)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            system.send_signal(signal.SIGINT)
            status = system.wait()
        log.seek(0)
        printed = log.read()
    failed = [] if found[-1][0] else ["qscale up ended before its time"]
    print(f"{'process':34}{'memory at 5, 25, 60, 97 % of the time, MiB':>44}{'descriptors':>24}")
    for name in found[-1][0]:
        values = [processes.get(name) for processes, _ in found]
        if None in values:
            failed.append(f"{name} was started after the beginning")
            continue
        memory, files = [value[0] for value in values], [value[1] for value in values]
        print(f"{name:34}{'  '.join(f'{kib / 1024:7.1f}' for kib in memory):>44}{'  '.join(f'{count:4}' for count in files):>24}")
        before = memory[2 if name.startswith("nats-server") else 1]
        if memory[3] > before * 1.25 and memory[3] > before + 8192:
            failed.append(f"{name} grew from {before} to {memory[3]} KiB")
        if files[3] > files[1] + 16:
            failed.append(f"{name} had {files[1]} descriptors, and {files[3]} at the end")
    for part in ("logs", "nats"):
        print(f"{part + ', KiB':34}{'  '.join(f'{sizes[part]:7}' for _, sizes in found):>44}")
    if status != 0:
        failed.append(f"qscale up ended with {status}:\n{printed[-2000:]}")
    for failure in failed:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
