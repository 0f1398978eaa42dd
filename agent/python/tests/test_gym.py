"""Environments: Gymnasium's checker, exact seeds, the trainer's worlds, and errors."""

import hashlib
import json
import subprocess

import gymnasium
import numpy
import pytest
from gymnasium.utils.env_checker import check_env

import qscale
import qscale.gym
from conftest import PROGRAMS

STEPS = PROGRAMS / "examples" / "steps"


def vector(functions, **settings):
    return gymnasium.make_vec(qscale.gym.ENVIRONMENT, num_envs=functions, vectorization_mode="vector_entry_point", **settings)


def chosen(masks, tick):
    """The allowed action of number 7 x tick + function, as the example `steps` of the trainer takes it."""
    wanted = (7 * tick + numpy.arange(len(masks))) % numpy.maximum(masks.sum(1), 1)
    return ((masks.cumsum(1) == wanted[:, None] + 1) & (masks == 1)).argmax(1)


def rewards(env, ticks, seed=None):
    """The rewards of a fixed choice of actions."""
    _, info = env.reset(seed=seed)
    found = []
    for tick in range(ticks):
        _, reward, _, truncated, info = env.step(int(chosen(info["action_mask"][None], tick)[0]))
        found.append(reward)
        if truncated:
            _, info = env.reset()
    return found


@pytest.mark.parametrize("action_set", ["headroom", "step", "grid"])
def test_gymnasiums_checker_passes(action_set):
    check_env(gymnasium.make(f"qscale.gym:{qscale.gym.ENVIRONMENT}", action_set=action_set).unwrapped)


def test_one_seed_gives_one_sequence():
    make = lambda: gymnasium.make(qscale.gym.ENVIRONMENT).unwrapped
    env = make()
    assert rewards(env, 600, 3) == rewards(make(), 600, 3) == rewards(env, 600, 3)
    assert rewards(env, 600, 3) != rewards(env, 600, 4)


def test_a_world_can_be_selected_by_its_number():
    env = gymnasium.make(qscale.gym.ENVIRONMENT, split="test").unwrapped
    first, info = env.reset(options={"world": 5})
    assert info["world"] == 5
    env.step(0)
    assert numpy.array_equal(env.reset(options={"world": 5})[0], first)
    assert env.reset(seed=1)[1]["world"] == 1 << 32
    assert env.reset()[1]["world"] == (1 << 32) + 1


def test_worlds_are_those_of_the_trainer():
    if not STEPS.exists():
        pytest.fail(f"{STEPS} does not exist; run: cargo build -p qscale-train --example steps")
    seed, functions, ticks = 11, 5, 400
    digest = hashlib.sha256()
    envs = vector(functions, threads=2)
    _, infos = envs.reset(seed=seed)
    ended = 0
    for tick in range(ticks):
        observations, reward, _, truncations, infos = envs.step(chosen(infos["action_mask"], tick))
        for function in range(functions):
            observation, mask = observations[function], infos["action_mask"][function]
            if truncations[function]:
                observation, mask = infos["final_obs"][function], infos["final_info"]["action_mask"][function]
                ended += 1
            digest.update(observation.astype("<f4").tobytes())
            digest.update(sum(1 << int(action) for action in numpy.flatnonzero(mask)).to_bytes(8, "little"))
            digest.update(reward[function].astype("<f8").tobytes())
    assert ended, "the comparison covers the change of worlds"
    trainer = subprocess.check_output([STEPS, str(seed), str(functions), str(ticks), "2", "--digest"], text=True)
    assert json.loads(trainer)["digest"] == digest.hexdigest()


def test_vector_and_single_environments_are_equal_on_any_number_of_threads():
    single = rewards(gymnasium.make(qscale.gym.ENVIRONMENT).unwrapped, 300, 2)
    for threads in (1, 3):
        envs = vector(4, threads=threads)
        _, infos = envs.reset(seed=2)
        first = []
        for tick in range(len(single)):
            _, reward, _, truncations, infos = envs.step(chosen(infos["action_mask"], tick))
            first.append(reward[0])
            if truncations[0]:
                break
        assert first == single[: len(first)]


def test_an_observer_sees_what_the_environment_shows():
    env = gymnasium.make(qscale.gym.ENVIRONMENT, violation_cost=100.0).unwrapped
    observation, info = env.reset(seed=9)
    observer = qscale.Observer(violation_cost=100.0)
    for tick in range(100):
        seen, mask = observer.observe(env.state)
        # Measurements are rounded on the wire.
        numpy.testing.assert_allclose(seen, observation, atol=1e-3)
        numpy.testing.assert_array_equal(mask, info["action_mask"])
        assert numpy.array_equal(observer.observe(env.state)[0], seen), "a State that was seen changes nothing"
        action = int(chosen(mask[None], tick)[0])
        assert observer.allocation(action) is not None
        observation, _, _, truncated, info = env.step(action)
        if truncated:
            break


def test_observations_are_in_their_space_and_named():
    env = gymnasium.make(qscale.gym.ENVIRONMENT).unwrapped
    observation, _ = env.reset(seed=1)
    assert len(qscale.feature_names()) == len(observation) and env.observation_space.contains(observation)
    assert len(qscale.action_names()) == env.action_space.n
    assert env.action_masks().dtype == bool


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"split": "x"}, 'split = "x"'),
        ({"action_set": "x"}, 'action set = "x"'),
        ({"scope": "x"}, "scope"),
        ({"violation_cost": 1.0}, "violation_cost = 1"),
        ({"violation_cost": float("nan")}, "violation_cost = NaN"),
        ({"tasks": {"sparse_share": 2.0}}, "sparse_share = 2"),
        ({"tasks": {"unknown": 1}}, "tasks: unknown field `unknown`"),
        ({"reward": {"cost": -1.0}}, "reward.cost = -1"),
    ],
)
def test_settings_are_checked(settings, part):
    with pytest.raises(ValueError) as raised:
        qscale.gym.FunctionEnv(**settings)
    assert part in str(raised.value)


def test_steps_are_checked():
    envs = qscale.gym.VectorFunctionEnv(3)
    with pytest.raises(ValueError, match="call reset first"):
        envs.step([0, 0, 0])
    envs.reset(seed=1)
    for wrong, part in [([0, 0], "actions for 2 functions, must be for 3"), ([0, 0, 99], "action of function 2 = 99"), ([0, 0, -1], "= -1"), ([0.5] * 3, "integers")]:
        with pytest.raises(ValueError, match=part):
            envs.step(wrong)
    for wrong in (0, -1, 10**9):
        with pytest.raises((ValueError, OverflowError)):
            qscale.gym.VectorFunctionEnv(wrong)
    env = qscale.gym.FunctionEnv()
    env.reset(seed=1)
    while not env.step(0)[3]:
        pass
    with pytest.raises(ValueError, match="has ended; call reset first"):
        env.step(0)
