#!/usr/bin/env python3
"""Compares the simulator with DSLab-FaaS and SimFaaS on one trace: see README.md."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def built(directory, *arguments):
    """Builds with cargo; returns the folder of what was built."""
    subprocess.run(["cargo", "build", "--release", *arguments], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    metadata = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=directory, check=True, capture_output=True, text=True
    )
    return Path(json.loads(metadata.stdout)["target_directory"]) / "release"


def simulators(arguments, invocations):
    ours = built(ROOT, "-p", "qscale-sim", "--example", "trace") / "examples" / "trace"
    with open(invocations, "w") as out:
        subprocess.run([ours, "list", arguments.trace, arguments.rate], check=True, stdout=out)
    setting = [arguments.keep_alive, arguments.startup]
    commands = {"Qscale": [ours, "run", arguments.trace, arguments.rate, *setting]}
    if arguments.dslab:
        checkout = HERE / "dslab" / "checkout"
        checkout.unlink(missing_ok=True)
        checkout.symlink_to(Path(arguments.dslab).resolve())
        commands["DSLab-FaaS"] = [built(HERE / "dslab") / "comparison-dslab", invocations, *setting]
    if arguments.simfaas:
        commands["SimFaaS"] = [arguments.simfaas, HERE / "simfaas_driver.py", invocations, *setting]
    return commands


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", required=True, help="folder with invocations.csv and durations.csv in Azure's format of 2019")
    parser.add_argument("--dslab", help="checkout of github.com/osukhoroslov/dslab; left out where not given")
    parser.add_argument("--simfaas", help="a Python in which simfaas 0.2.2 is installed; left out where not given")
    parser.add_argument("--rate", default="1", help="factor on the trace's counts")
    parser.add_argument("--keep-alive", default="600", help="seconds that a replica is kept without a request")
    parser.add_argument("--startup", default="0.5", help="seconds that a start takes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        commands = simulators(arguments, os.path.join(directory, "invocations.csv"))
        results = {name: [] for name in commands}
        for number in range(arguments.rounds):
            # One after the other within each round, so that what else the machine does falls on all of them.
            for name, command in commands.items():
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[name].append(json.loads(output.splitlines()[-1]))
                print(f"round {number + 1}, {name}: {output.splitlines()[-1]}", file=sys.stderr)

    print(f"{arguments.trace}, {arguments.rate} times its counts, keep-alive {arguments.keep_alive} s, starts of {arguments.startup} s;")
    print(f"medians of {arguments.rounds} interleaved rounds, CPU time")
    print(f"{'':12} {'invocations':>12} {'cold starts':>12} {'mean latency':>14} {'invocations/s':>14} {'bytes held':>14}")
    for name, rounds in results.items():
        middle = {key: statistics.median(result[key] for result in rounds) for key in rounds[0]}
        speed = middle["invocations"] / middle["cpu_s"]
        print(
            f"{name:12} {middle['invocations']:12,.0f} {middle['cold_starts']:12,.0f} {middle['mean_latency_ms']:11,.2f} ms "
            f"{speed:14,.0f} {middle['held_bytes']:14,.0f}"
        )


if __name__ == "__main__":
    main()
