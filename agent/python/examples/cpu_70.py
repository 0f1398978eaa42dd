"""Replicas for a CPU utilisation of 70 %. Run it after: eval "$(qscale agent add mine)" """
from math import ceil
from qscale import Action, State, agent, answer

@agent
def cpu_70(state: State) -> Action | None:
    used, now = state.windows.tick.cpu_millicores, state.allocation
    if not used or not now:
        return None
    return answer(state, replicas=ceil(used.mean * now.replicas / (0.7 * now.cpu_millicores)), reason=f"{used.mean:.0f}m used")

if __name__ == "__main__":
    cpu_70.run()
