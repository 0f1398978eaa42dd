"""Qscale in Python: agents, policies, simulated environments and results.

- `qscale.agent`, `qscale.answer`: an agent that answers States over NATS (extra `agent`)
- `qscale.Observer`: the features, actions and masks of the learned policy for one function (NumPy, in the extra `gym`)
- `qscale.gym`: the trainer's simulated functions as Gymnasium environments (extra `gym`)
- `qscale.frames`: results of `qscale evaluate` and load traces as data frames (extra `frames`)
- `qscale.policy_server`: a policy as a competitor of `qscale evaluate`
"""

from ._agent import Agent, AgentError, agent, answer
from ._native import action_names, feature_names
from ._observer import Observer
from ._record import ContractError
from ._serve import serve
from .contract import Action, Allocation, Choice, State

__all__ = [
    "Action",
    "Agent",
    "AgentError",
    "Allocation",
    "Choice",
    "ContractError",
    "Observer",
    "State",
    "action_names",
    "agent",
    "answer",
    "feature_names",
    "serve",
]
