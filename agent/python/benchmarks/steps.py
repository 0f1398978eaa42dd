#!/usr/bin/env python3
"""Steps a second of the environments, of the trainer's own loop, and of gym-hpa, one after the other on the same machine.

    python agent/python/benchmarks/steps.py --trainer target/wheel/examples/steps --gym-hpa FOLDER --gym-hpa-python PYTHON

`--trainer`: `cargo build --profile wheel -p qscale-train --example steps` builds it. `--gym-hpa`: a clone of github.com/jpedro1992/gym-hpa; its Python needs gym,
pandas, kubernetes and requests. Without the data set of the clone, a stand-in with the same columns and `--rows` random rows is written to a temporary folder.
gym-hpa looks up each step in the data set, so fewer rows are faster.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy

import qscale.gym

SEED = 1
GYM_HPA = """
import importlib, sys, time, warnings
warnings.simplefilter("ignore")
folder, module, name, seconds = sys.argv[1:]
sys.path.insert(0, folder)
env = getattr(importlib.import_module(f"gym_hpa.envs.{module}"), name)(k8s=False)
env.action_space.seed(1)
actions = [env.action_space.sample() for _ in range(1000)]
env.reset()
steps, began = 0, time.perf_counter()
while time.perf_counter() - began < float(seconds):
    _, _, done, _ = env.step(actions[steps % 1000])
    steps += 1
    if done:
        env.reset()
print(steps, time.perf_counter() - began)
"""
GYM_HPA_ENVIRONMENTS = {
    "Redis": ("redis", "datasets/real/redis/v1/redis_gym_observation.csv", "redis-leader redis-follower"),
    "OnlineBoutique": (
        "online_boutique",
        "datasets/real/onlineboutique/v1/online_boutique_gym_observation.csv",
        "recommendationservice productcatalogservice cartservice adservice paymentservice shippingservice currencyservice redis-cart checkoutservice "
        "frontend emailservice",
    ),
}
"""Environments of gym-hpa: module, data set and deployments."""


def chosen(masks, tick):
    """The allowed action of number 7 x tick + function, as the trainer's example takes it."""
    wanted = (7 * tick + numpy.arange(len(masks))) % numpy.maximum(masks.sum(1), 1)
    return ((masks.cumsum(1) == wanted[:, None] + 1) & (masks == 1)).argmax(1)


def vector(functions, threads, seconds):
    """Steps a second of the vectorised environment, and its number of ticks."""
    envs = gymnasium.make_vec(qscale.gym.ENVIRONMENT, num_envs=functions, vectorization_mode="vector_entry_point", threads=threads)
    _, infos = envs.reset(seed=SEED)
    tick, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        *_, infos = envs.step(chosen(infos["action_mask"], tick))
        tick += 1
    return tick * functions / (time.perf_counter() - began), tick


def single(seconds):
    """Steps a second of one environment."""
    env = gymnasium.make(qscale.gym.ENVIRONMENT, disable_env_checker=True).unwrapped
    _, info = env.reset(seed=SEED)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        _, _, _, truncated, info = env.step(chosen(info["action_mask"][None], steps)[0])
        steps += 1
        if truncated:
            _, info = env.reset()
    return steps / (time.perf_counter() - began)


def trainer(program, functions, threads, ticks):
    """Steps a second of the trainer's loop over the same worlds with the same actions."""
    output = json.loads(subprocess.check_output([program, str(SEED), str(functions), str(ticks), str(threads)]))
    return output["steps"] / output["seconds"]


def gym_hpa(name, folder, python, seconds, rows):
    """Steps a second of an environment of gym-hpa in its simulation mode, and the data that it looks up."""
    module, data, deployments = GYM_HPA_ENVIRONMENTS[name]
    with tempfile.TemporaryDirectory() as temporary:
        target, own = Path(temporary) / data, Path(folder) / data
        target.parent.mkdir(parents=True)
        target.write_bytes(own.read_bytes() if own.exists() else stand_in(deployments.split(), rows).encode())
        # It reads the data set relative to this folder, and appends each step to a file there.
        run = Path(temporary) / "policies" / "run"
        run.mkdir(parents=True)
        command = [python, "-c", GYM_HPA, str(Path(folder).resolve()), module, name, str(seconds)]
        steps, took = subprocess.check_output(command, cwd=run, text=True).split()[-2:]
        return int(steps) / float(took), "its data" if own.exists() else f"{rows} random rows"


def stand_in(deployments, rows):
    """A data set with the columns of gym-hpa's and random values; every number of pods occurs."""
    rng = numpy.random.default_rng(SEED)
    most = {"num_pods": 9, "desired_replicas": 9, "cpu_usage": 2000, "mem_usage": 2000, "traffic_in": 20000, "traffic_out": 20000, "latency": 300}
    columns = {f"{deployment}_{name}": rng.integers(1, end, size=rows) for deployment in deployments for name, end in most.items()}
    lines = [",".join(["date", *columns])]
    lines += [",".join(["2020-01-01", *(str(values[row]) for values in columns.values())]) for row in range(rows)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--trainer")
    parser.add_argument("--gym-hpa")
    parser.add_argument("--gym-hpa-python", default="python3")
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.seconds:g} s each")
    baselines = {}
    for name in GYM_HPA_ENVIRONMENTS if options.gym_hpa else ():
        baselines[name], data = gym_hpa(name, options.gym_hpa, options.gym_hpa_python, options.seconds, options.rows)
        print(f"{f'gym-hpa {name}, {data}':<50} {baselines[name]:>8.0f} steps/s")

    def show(what, speed):
        ratios = "".join(f"  {speed / baseline:>4.0f} x {name}" for name, baseline in baselines.items())
        print(f"{what:<50} {speed:>8.0f} steps/s{ratios}")

    show("qscale/Function-v0, 1 function", single(options.seconds))
    for threads in sorted({1, options.threads}):
        speed, ticks = vector(options.functions, threads, options.seconds)
        what = f"{options.functions} functions, {threads} thread{'s' if threads > 1 else ''}"
        show(f"qscale/Function-v0, {what}", speed)
        if options.trainer:
            show(f"trainer without learning, {what}", trainer(options.trainer, options.functions, threads, ticks))


if __name__ == "__main__":
    main()
