"""Double DQN in one file, in the style of CleanRL, with action masks and many functions at once. Needs `qscale[gym,agent]` and torch.

    python dqn.py train --steps 300000 --out dqn.pt
    qscale evaluate --policy mine=external:command='python dqn.py serve dqn.pt' --policy hpa
    python dqn.py run dqn.pt                  # a live agent; the credential comes from `qscale agent add NAME`
"""

import argparse
import copy
import time

import gymnasium
import numpy
import torch
from torch import nn

import qscale
import qscale.gym

FUNCTIONS = 64
DISCOUNT = 0.99
LEARNING_RATE = 5e-4
BATCH = 512
CAPACITY = 200_000
WARM_UP = 5_000
STEPS_PER_UPDATE = 32
TARGET_RATE = 0.01
EXPLORATION = (1.0, 0.05, 0.3)
"""Probability of a random action at the start and at the end, and the share of the training in which it falls."""
MASKED = -1e9
"""Value of an action that cannot be taken."""


def network() -> nn.Module:
    features, actions = len(qscale.feature_names()), len(qscale.action_names())
    return nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, actions))


def masked_values(values: nn.Module, observations: numpy.ndarray, masks: numpy.ndarray) -> torch.Tensor:
    """The value of each action; `MASKED` if it cannot be taken."""
    with torch.no_grad():
        return values(torch.as_tensor(observations)).masked_fill(torch.as_tensor(masks) == 0, MASKED)


class Replay:
    """A ring of transitions."""

    def __init__(self, features: int, actions: int) -> None:
        self.size, self.at = 0, 0
        self.observation = numpy.zeros((CAPACITY, features), numpy.float32)
        self.next = numpy.zeros((CAPACITY, features), numpy.float32)
        self.next_mask = numpy.zeros((CAPACITY, actions), numpy.int8)
        self.action = numpy.zeros(CAPACITY, numpy.int64)
        self.reward = numpy.zeros(CAPACITY, numpy.float32)

    def add(self, observation, action, reward, following, following_mask) -> None:
        rows = (self.at + numpy.arange(len(action))) % CAPACITY
        self.observation[rows], self.action[rows], self.reward[rows] = observation, action, reward
        self.next[rows], self.next_mask[rows] = following, following_mask
        self.at, self.size = (self.at + len(action)) % CAPACITY, min(self.size + len(action), CAPACITY)

    def sample(self, rng: numpy.random.Generator) -> list[torch.Tensor]:
        rows = rng.integers(self.size, size=BATCH)
        return [torch.as_tensor(part[rows]) for part in (self.observation, self.action, self.reward, self.next, self.next_mask)]


def train(steps: int, out: str, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = numpy.random.default_rng(seed)
    envs = gymnasium.make_vec(qscale.gym.ENVIRONMENT, num_envs=FUNCTIONS, vectorization_mode="vector_entry_point")
    values = network()
    target = copy.deepcopy(values)
    optimizer = torch.optim.Adam(values.parameters(), LEARNING_RATE)
    replay = Replay(envs.single_observation_space.shape[0], envs.single_action_space.n)
    observations, infos = envs.reset(seed=seed)
    began, rewards, due = time.perf_counter(), [], 0
    for step in range(0, steps, FUNCTIONS):
        first, last, share = EXPLORATION
        epsilon = max(last, first + (last - first) * step / (share * steps))
        masks = infos["action_mask"]
        chosen = masked_values(values, observations, masks).argmax(1).numpy()
        explored = (rng.random(masks.shape) * masks).argmax(1)
        actions = numpy.where(rng.random(FUNCTIONS) < epsilon, explored, chosen)
        after, reward, _, truncated, infos = envs.step(actions)
        # A world ends by its length only: the last observation of a world bootstraps, too.
        following, following_masks = after.copy(), infos["action_mask"].copy()
        for index in numpy.flatnonzero(truncated):
            following[index], following_masks[index] = infos["final_obs"][index], infos["final_info"]["action_mask"][index]
        replay.add(observations, actions, reward, following, following_masks)
        observations = after
        rewards.append(reward.mean())
        due += FUNCTIONS
        while replay.size >= WARM_UP and due >= STEPS_PER_UPDATE:
            due -= STEPS_PER_UPDATE
            update(values, target, optimizer, replay.sample(rng))
        if step // FUNCTIONS % 200 == 199:
            speed = (step + FUNCTIONS) / (time.perf_counter() - began)
            print(f"step {step + FUNCTIONS}  reward {numpy.mean(rewards):.3f}  epsilon {epsilon:.2f}  {speed:.0f} steps/s", flush=True)
            rewards = []
    torch.save(values.state_dict(), out)


def update(values: nn.Module, target: nn.Module, optimizer: torch.optim.Optimizer, batch: list[torch.Tensor]) -> None:
    """One step of double Q-learning."""
    observation, action, reward, following, mask = batch
    with torch.no_grad():
        best = values(following).masked_fill(mask == 0, MASKED).argmax(1, keepdim=True)
        goal = reward + DISCOUNT * target(following).gather(1, best).squeeze(1)
    loss = nn.functional.smooth_l1_loss(values(observation).gather(1, action.unsqueeze(1)).squeeze(1), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), values.parameters()):
            slow.lerp_(fast, TARGET_RATE)


def policy(path: str, violation_cost: float) -> qscale.Agent:
    """The saved network as an agent, with an Observer for each function."""
    torch.set_num_threads(1)
    values = network()
    values.load_state_dict(torch.load(path, weights_only=True))
    names = qscale.action_names()

    @qscale.agent(memory=lambda: qscale.Observer(violation_cost=violation_cost), configuration=f"dqn.py {path} {violation_cost:g}")
    def decide(state: qscale.State, observer: qscale.Observer) -> qscale.Action | None:
        observation, mask = observer.observe(state)
        if not mask.any():
            return None
        q = masked_values(values, observation[None], mask[None])[0]
        action = int(q.argmax())
        # `qscale why` shows them.
        choices = [qscale.Choice(action=name, value=float(value)) for name, value, allowed in zip(names, q, mask) if allowed]
        return qscale.answer(state, allocation=observer.allocation(action), reason=names[action], choices=choices)

    return decide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "serve", "run"))
    parser.add_argument("model", nargs="?", default="dqn.pt", help="the saved network")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="dqn.pt")
    parser.add_argument("--violation-cost", type=float, default=200.0, help="cost of a violated tick when it decides: higher is safer and more expensive")
    options = parser.parse_args()
    if options.command == "train":
        train(options.steps, options.out, options.seed)
    elif options.command == "serve":
        qscale.serve(policy(options.model, options.violation_cost))
    else:
        policy(options.model, options.violation_cost).run()


if __name__ == "__main__":
    main()
