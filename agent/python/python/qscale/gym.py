"""Gymnasium environments over the simulator: the worlds, observations, actions, masks and rewards of the trainer of the bundled model.

One step is one tick of a simulated function. An action names an allocation relative to the demand or to the current allocation
(`qscale.action_names()`). `info["action_mask"]` marks the actions that can be taken; another one keeps the current allocation, except that an action whose
allocation repeats that of an earlier action has the same effect. An episode ends only by its length, which is a truncation.
"""

from __future__ import annotations

import json
import operator
from typing import Any, Mapping

try:
    import gymnasium
    import numpy
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
except ImportError as error:
    raise ImportError(f"qscale.gym needs Gymnasium 1.1 and NumPy ({error}); install the wheel with its extra: pip install 'WHEEL[gym]'") from error

from . import _native
from .contract import State

__all__ = ["ENVIRONMENT", "FunctionEnv", "VectorFunctionEnv"]

TERMS = ("reward", "violation", "cost", "reversal", "kills")
"""Terms of a step, in the order of the native module: the reward, and the parts that it is the weighted sum of."""

ENVIRONMENT = "qscale/Function-v0"
"""Name of the environments in Gymnasium; importing this module registers it."""

gymnasium.register(ENVIRONMENT, entry_point=f"{__name__}:FunctionEnv", vector_entry_point=f"{__name__}:VectorFunctionEnv")


class _Batch:
    """Native worlds with NumPy arrays."""

    def __init__(self, functions: int, action_set: str, tasks: Mapping | None, reward: Mapping | None, **settings: Any) -> None:
        documents = {name: None if value is None else json.dumps(value) for name, value in (("tasks", tasks), ("reward", reward))}
        self.native = _native.Worlds(functions, action_set=action_set, **settings, **documents)
        self.actions = len(_native.action_names(action_set))
        self.features = len(_native.feature_names())

    def arrays(self, batch: tuple[bytearray, bytearray, bytearray]) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Observations, masks and terms of the native batch, one row for each function."""
        observations, masks, terms = batch
        return (
            numpy.frombuffer(observations, numpy.float32).reshape(-1, self.features),
            numpy.frombuffer(masks, numpy.int8).reshape(-1, self.actions),
            numpy.frombuffer(terms, numpy.float64).reshape(-1, len(TERMS)),
        )

    def step(self, actions: Any) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        given = numpy.asarray(actions)
        if not numpy.issubdtype(given.dtype, numpy.integer):
            raise ValueError(f"actions of type {given.dtype}, must be integers")
        return self.arrays(self.native.step(given.astype(numpy.int64).tobytes()))

    def view(self) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        return self.arrays(self.native.view())

    def space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.features,), numpy.float32)


class FunctionEnv(gymnasium.Env):
    """One simulated function. `gymnasium.make("qscale.gym:qscale/Function-v0")` makes one.

    - `split`: `training`, `validation` or `test`; disjoint worlds
    - `action_set`: `headroom`, `step` or `grid`; `scope`: `joint`, `horizontal` or `vertical`
    - `violation_cost`: cost of a violated tick, 10 to 20000; by default it differs between worlds and is a feature of the observation
    - `tasks`, `reward`: parts of a training configuration that replace the defaults, such as `{"sparse_share": 0.0}`

    `reset(seed=s)` begins the first world of training seed `s`, each further `reset()` the next one; `options={"world": n}` selects one by number.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        split: str = "training",
        action_set: str = "headroom",
        scope: str = "joint",
        violation_cost: float | None = None,
        tasks: Mapping | None = None,
        reward: Mapping | None = None,
    ) -> None:
        self._batch = _Batch(1, action_set, tasks, reward, scope=scope, split=split, violation_cost=violation_cost)
        self.observation_space = self._batch.space()
        self.action_space = spaces.Discrete(self._batch.actions)
        self._seeded = False
        self._mask = numpy.zeros(self._batch.actions, numpy.int8)
        self._world, self._left = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[numpy.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        unknown = set(options or {}) - {"world"}
        if unknown:
            raise ValueError(f"options {sorted(unknown)} are unknown; the only one is world")
        if seed is not None or not self._seeded:
            self._batch.native.begin(int(self.np_random.integers(1 << 32)) if seed is None else seed)
            self._seeded = True
        elif not options:
            self._batch.native.begin_next(0)
        if options:
            self._batch.native.begin_world(0, options["world"])
        observations, masks, _ = self._batch.view()
        self._mask = masks[0]
        self._world, self._left = self._batch.native.numbers()[0], self._batch.native.left()[0]
        return observations[0], {"action_mask": self._mask, "world": self._world}

    def step(self, action: Any) -> tuple[numpy.ndarray, float, bool, bool, dict[str, Any]]:
        observations, masks, terms = self._batch.step([operator.index(action)])
        self._mask = masks[0]
        self._left -= 1
        reward, violation, cost, reversal, kills = terms[0].tolist()
        parts = {"violation": violation, "cost": cost, "reversal": reversal, "kills": kills}
        return observations[0], reward, False, self._left == 0, {"action_mask": self._mask, "world": self._world, **parts}

    def action_masks(self) -> numpy.ndarray:
        """Which actions can be taken, as sb3-contrib's `MaskablePPO` reads it."""
        return self._mask.astype(bool)

    @property
    def state(self) -> State:
        """The State that the last observation was computed from, as an agent would receive it."""
        return State.from_json(self._batch.native.state(0))


class VectorFunctionEnv(VectorEnv):
    """Many simulated functions, stepped by one call without Python's lock, on `threads` threads.

    `reset(seed=s)` begins the worlds that the trainer begins with seed `s` and as many functions, and the functions enter further worlds in the same order.
    A function whose world ends enters the next one in the same step; `infos["final_obs"]` then has the last observation of the old one.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        split: str = "training",
        action_set: str = "headroom",
        scope: str = "joint",
        violation_cost: float | None = None,
        tasks: Mapping | None = None,
        reward: Mapping | None = None,
        threads: int = 1,
    ) -> None:
        self._batch = _Batch(num_envs, action_set, tasks, reward, scope=scope, split=split, violation_cost=violation_cost, threads=threads)
        self.num_envs = num_envs
        self.single_observation_space = self._batch.space()
        self.single_action_space = spaces.Discrete(self._batch.actions)
        self.observation_space = spaces.Box(-1.0, 1.0, (num_envs, self._batch.features), numpy.float32)
        self.action_space = spaces.MultiDiscrete([self._batch.actions] * num_envs)
        self._masks = numpy.zeros((num_envs, self._batch.actions), numpy.int8)
        self._worlds = numpy.zeros(num_envs, numpy.uint64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[numpy.ndarray, dict[str, Any]]:
        if seed is not None and not isinstance(seed, (int, numpy.integer)):
            raise ValueError(f"seed = {seed!r}, must be one integer: functions enter the worlds of one seed in turn")
        if options:
            raise ValueError(f"options {sorted(options)} are unknown; there are none")
        super().reset(seed=seed)
        self._batch.native.begin(int(self.np_random.integers(1 << 32)) if seed is None else int(seed))
        observations = self._entered()
        return observations, self._infos()

    def step(self, actions: Any) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray, dict[str, Any]]:
        observations, self._masks, terms = self._batch.step(actions)
        infos = dict(zip(TERMS, terms.T))
        rewards = infos.pop("reward")
        terminations, truncations = numpy.zeros(self.num_envs, bool), numpy.zeros(self.num_envs, bool)
        final, mask = observations, self._masks
        ended = self._batch.native.renew()
        if ended:
            truncations[ended] = True
            observations = self._entered()
            infos |= self._final(final, mask, ended, truncations)
        return observations, rewards, terminations, truncations, {**infos, **self._infos()}

    def action_masks(self) -> numpy.ndarray:
        """Which actions can be taken, one row for each function."""
        return self._masks.astype(bool)

    def state(self, index: int) -> State:
        """The State of function `index`."""
        return State.from_json(self._batch.native.state(index))

    def _entered(self) -> numpy.ndarray:
        """Observations after functions have entered other worlds."""
        observations, self._masks, _ = self._batch.view()
        self._worlds = numpy.array(self._batch.native.numbers(), numpy.uint64)
        return observations

    def _infos(self) -> dict[str, Any]:
        return {"action_mask": self._masks, "world": self._worlds}

    def _final(self, observations: numpy.ndarray, masks: numpy.ndarray, ended: list[int], truncations: numpy.ndarray) -> dict[str, Any]:
        final = numpy.full(self.num_envs, None, object)
        for index in ended:
            final[index] = observations[index]
        info = {"action_mask": masks, "_action_mask": truncations}
        return {"final_obs": final, "_final_obs": truncations, "final_info": info, "_final_info": truncations}
