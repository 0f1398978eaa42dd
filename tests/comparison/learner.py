"""Gradient updates and decisions per second of Qscale's learner, PyTorch, JAX and burn-rl, on one machine in one run.

    python3 tests/comparison/learner.py --ours target/debug/examples/speed [--device cpu|gpu] [--frameworks torch,jax] [--burn-rl PROGRAM]

The update is one of double DQN: three forward passes, a Huber loss, Adam, a soft target, on transitions drawn from a replay of 20,000 held in memory. On
the CPU one thread computes and CPU time counts; on a GPU wall-clock time counts, with a synchronisation at the end.

burn-rl is github.com/yunjhongwu/burn-rl-examples, on the CPU and with the first network only. Its update does less: plain DQN, so two
forward passes, with a mean squared error. It is not a dependency of the project; PROGRAM is built by the second of these commands. The first also builds SDL2, with which
burn-rl's environments draw: it takes CMake and SDL2_gfx (Debian's libsdl2-gfx-dev).

    cargo build --release --manifest-path tests/comparison/burn-rl/Cargo.toml
    tests/comparison/burn-rl/target/release/comparison-burn-rl
"""

import argparse
import os
import statistics
import subprocess
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

ROUNDS = 5
SUBJECTS = [
    ("4-120-84-2", 4, [120, 84], 2, False, False),
    ("85-128-128-20, dueling, layer norm", 85, [128, 128], 20, True, True),
]


def torch_subject(subject, device):
    import torch
    from torch import nn

    torch.set_num_threads(1)
    _, inputs, hidden, actions, dueling, norm = subject

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers, width = [], inputs
            for size in hidden:
                layers.append(nn.Linear(width, size))
                if norm:
                    layers.append(nn.LayerNorm(size))
                layers.append(nn.ReLU())
                width = size
            self.body = nn.Sequential(*layers)
            self.advantage = nn.Linear(width, actions)
            self.value = nn.Linear(width, 1) if dueling else None

        def forward(self, seen):
            body = self.body(seen)
            advantage = self.advantage(body)
            if self.value is None:
                return advantage
            return self.value(body) + advantage - advantage.mean(1, keepdim=True)

    online, target = Net().to(device), Net().to(device)
    target.load_state_dict(online.state_dict())
    adam = torch.optim.Adam(online.parameters(), lr=1e-3, eps=1.5e-4, foreach=True)
    size = 20_000
    seen, after = torch.rand(size, inputs, device=device), torch.rand(size, inputs, device=device)
    chosen, reward = torch.randint(actions, (size, 1), device=device), -torch.rand(size, 1, device=device)
    pairs = list(zip(target.parameters(), online.parameters()))
    targets, onlines = [t.data for t, _ in pairs], [o.data for _, o in pairs]

    def update(batch):
        rows = torch.randint(size, (batch,), device=device)
        with torch.no_grad():
            best = online(after[rows]).argmax(1, keepdim=True)
            aim = reward[rows] + 0.9 * target(after[rows]).gather(1, best)
        loss = nn.functional.smooth_l1_loss(online(seen[rows]).gather(1, chosen[rows]), aim, beta=1.0)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        torch._foreach_lerp_(targets, onlines, 0.005)

    def wait():
        if device != "cpu":
            torch.cuda.synchronize()

    def deciding(count):
        shown = torch.rand(count, inputs, device=device)

        def run():
            with torch.inference_mode():
                online(shown).argmax(1).cpu()

        return run

    return update, deciding, wait


def jax_subject(subject, device):
    import jax
    import jax.numpy as jnp

    _, inputs, hidden, actions, dueling, norm = subject
    place = jax.devices("cpu" if device == "cpu" else "gpu")[0]
    jax.config.update("jax_default_device", place)
    key = jax.random.PRNGKey(1)

    def layer(key, width, size):
        return {"w": jax.random.normal(key, (width, size)) * (2 / width) ** 0.5, "b": jnp.zeros(size)}

    widths = [inputs] + hidden
    keys = jax.random.split(key, len(widths) + 6)
    parameters = {"body": [layer(keys[i], a, b) for i, (a, b) in enumerate(zip(widths, widths[1:]))]}
    if norm:
        parameters["norm"] = [{"g": jnp.ones(size), "b": jnp.zeros(size)} for size in hidden]
    parameters["advantage"] = layer(keys[-1], hidden[-1], actions)
    if dueling:
        parameters["value"] = layer(keys[-2], hidden[-1], 1)

    def values(p, x):
        for index, one in enumerate(p["body"]):
            x = x @ one["w"] + one["b"]
            if norm:
                x = (x - x.mean(1, keepdims=True)) * jax.lax.rsqrt(x.var(1, keepdims=True) + 1e-5)
                x = x * p["norm"][index]["g"] + p["norm"][index]["b"]
            x = jax.nn.relu(x)
        advantage = x @ p["advantage"]["w"] + p["advantage"]["b"]
        if not dueling:
            return advantage
        return x @ p["value"]["w"] + p["value"]["b"] + advantage - advantage.mean(1, keepdims=True)

    size = 20_000
    seen, after = jax.random.uniform(keys[-3], (size, inputs)), jax.random.uniform(keys[-4], (size, inputs))
    chosen, reward = jax.random.randint(keys[-5], (size,), 0, actions), -jax.random.uniform(keys[-6], (size,))
    state = {"p": parameters, "t": parameters, "m": jax.tree.map(jnp.zeros_like, parameters), "v": jax.tree.map(jnp.zeros_like, parameters), "n": 0, "key": key}

    def step(state, batch):
        key, draw = jax.random.split(state["key"])
        rows = jax.random.randint(draw, (batch,), 0, size)

        def loss(p):
            best = values(state["p"], after[rows]).argmax(1)
            aim = reward[rows] + 0.9 * jnp.take_along_axis(values(state["t"], after[rows]), best[:, None], 1)[:, 0]
            error = jnp.abs(jnp.take_along_axis(values(p, seen[rows]), chosen[rows][:, None], 1)[:, 0] - jax.lax.stop_gradient(aim))
            return jnp.where(error < 1.0, 0.5 * error**2, error - 0.5).mean()

        gradient = jax.grad(loss)(state["p"])
        n = state["n"] + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], gradient)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["v"], gradient)
        p = jax.tree.map(lambda p, m, v: p - 1e-3 * (m / (1 - 0.9**n)) / (jnp.sqrt(v / (1 - 0.999**n)) + 1.5e-4), state["p"], m, v)
        t = jax.tree.map(lambda t, p: t + 0.005 * (p - t), state["t"], p)
        return {"p": p, "t": t, "m": m, "v": v, "n": n, "key": key}

    compiled = jax.jit(step, static_argnums=1, donate_argnums=0)
    greedy = jax.jit(lambda p, x: values(p, x).argmax(1))
    held = {"state": jax.device_put(jax.tree.map(jnp.array, state), place)}

    def update(batch):
        held["state"] = compiled(held["state"], batch)

    def wait():
        jax.block_until_ready(held["state"])

    def deciding(count):
        shown = jax.random.uniform(jax.random.PRNGKey(2), (count, inputs))
        return lambda: greedy(held["state"]["p"], shown).block_until_ready()

    return update, deciding, wait


def measure(work, wait, count, clock):
    def round():
        begin = clock()
        for _ in range(count):
            work()
        wait()
        return count / (clock() - begin)

    round()
    return statistics.median(round() for _ in range(ROUNDS))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="the program `speed`, as `cargo build -p qscale-burn --example speed` makes it")
    parser.add_argument("--burn-rl", metavar="PROGRAM", help="the program `comparison-burn-rl`; left out where not given")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--frameworks", default="torch,jax")
    arguments = parser.parse_args()
    if arguments.burn_rl and arguments.device != "cpu":
        parser.error("burn-rl is measured on the CPU only")
    # MATMUL_NUM_THREADS is for the matrix products of burn's ndarray backend.
    environment = dict(os.environ, RAYON_NUM_THREADS="1", MATMUL_NUM_THREADS="1")
    for command in [[arguments.ours, arguments.device], [arguments.burn_rl]]:
        if command[0]:
            print(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout, flush=True)
    makers = {"torch": torch_subject, "jax": jax_subject}
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    batches = [32, 128, 1024] if arguments.device == "cpu" else [32, 128, 1024, 4096, 16384]
    sizes = [1, 100, 10_000, 100_000]
    for name in arguments.frameworks.split(","):
        for subject in SUBJECTS:
            device = "cpu" if arguments.device == "cpu" else "cuda"
            try:
                update, deciding, wait = makers[name](subject, device)
            except ImportError as error:
                print(f"{name}: {error}")
                break
            print(f"{name}: {subject[0]}", flush=True)
            for batch in batches:
                speed = measure(lambda: update(batch), wait, max(40, min(1000, 200_000 // batch)), clock)
                print(f"  batch {batch:6}: {speed:8.0f} updates/s", flush=True)
            for size in sizes:
                speed = measure(deciding(size), lambda: None, max(3, min(2000, 200_000 // size)), clock)
                print(f"  {size:12}: {speed * size:8.0f} decisions/s", flush=True)


if __name__ == "__main__":
    main()
