"""Stable-Baselines3 DQN and PPO on simulated functions, and the trained model as a policy. Needs `qscale[gym,agent]` and stable-baselines3.

    python sb3.py train dqn --steps 300000 --out dqn.zip
    qscale evaluate --policy mine=external:command='python sb3.py serve dqn dqn.zip' --policy hpa
    python sb3.py run dqn dqn.zip             # a live agent; the credential comes from `qscale agent add NAME`
"""

import argparse

import stable_baselines3
from stable_baselines3.common.env_util import make_vec_env

import qscale
import qscale.gym

DISCOUNT = 0.99
NETWORK = {"net_arch": [128, 128]}
SETTINGS = {
    "dqn": {"buffer_size": 200_000, "learning_starts": 5_000, "train_freq": 2, "batch_size": 256, "exploration_fraction": 0.3, "learning_rate": 5e-4},
    "ppo": {"n_steps": 256, "batch_size": 512, "learning_rate": 5e-4},
}


def train(algorithm: str, steps: int, out: str, seed: int) -> None:
    """Trains on the worlds of `seed` and saves the model."""
    envs = make_vec_env(qscale.gym.FunctionEnv, n_envs=8, seed=seed)
    make = getattr(stable_baselines3, algorithm.upper())
    model = make("MlpPolicy", envs, gamma=DISCOUNT, seed=seed, policy_kwargs=NETWORK, device="cpu", verbose=1, **SETTINGS[algorithm])
    model.learn(steps, log_interval=100)
    model.save(out)


def policy(algorithm: str, path: str, violation_cost: float) -> qscale.Agent:
    """The saved model as an agent, with an Observer for each function."""
    model = getattr(stable_baselines3, algorithm.upper()).load(path, device="cpu")
    names = qscale.action_names()

    @qscale.agent(memory=lambda: qscale.Observer(violation_cost=violation_cost), configuration=f"sb3-{algorithm} {path} {violation_cost:g}")
    def decide(state: qscale.State, observer: qscale.Observer) -> qscale.Action | None:
        observation, _ = observer.observe(state)
        action = int(model.predict(observation, deterministic=True)[0])
        allocation = observer.allocation(action)
        return allocation and qscale.answer(state, allocation=allocation, reason=names[action])

    return decide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "serve", "run"))
    parser.add_argument("algorithm", choices=SETTINGS)
    parser.add_argument("model", nargs="?", default="model.zip", help="the saved model")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="model.zip")
    parser.add_argument("--violation-cost", type=float, default=200.0, help="cost of a violated tick when it decides: higher is safer and more expensive")
    options = parser.parse_args()
    if options.command == "train":
        train(options.algorithm, options.steps, options.out, options.seed)
    elif options.command == "serve":
        qscale.serve(policy(options.algorithm, options.model, options.violation_cost))
    else:
        policy(options.algorithm, options.model, options.violation_cost).run()


if __name__ == "__main__":
    main()
