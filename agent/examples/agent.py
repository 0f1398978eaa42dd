"""A Qscale agent in Python: scales horizontally to a CPU utilisation of 70 %. Needs nats-py (`pip install nats-py`).

NATS_URL=nats://agent-NAME:PASSWORD@HOST:PORT QSCALE_AGENT=NAME python agent.py
"""
import asyncio, json, math, os, time
from urllib.parse import unquote, urlsplit
import nats

AGENT = os.environ["QSCALE_AGENT"]
SERVER = urlsplit(os.environ["NATS_URL"])
PROVENANCE = {"policy": "cpu-70", "configuration": "cpu-70/1"}  # Copied to the Outcome; equal configurations decide alike.

def decide(state, current):
    used = state["windows"]["tick"].get("cpu_millicores")
    if not used or not current["replicas"]:
        return current, "no CPU measurement: keep the current allocation"
    total = used["mean"] * current["replicas"]
    wanted = math.ceil(total / (0.7 * current["cpu_millicores"]))
    bounds = state["bounds"]["replicas"]
    replicas = min(max(wanted, bounds["min"]), bounds["max"])
    return {**current, "replicas": replicas}, f"{total:.0f}m used, target 70 % of {current['cpu_millicores']}m"

async def main():
    user = {"user": unquote(SERVER.username), "password": unquote(SERVER.password or "")} if SERVER.username else {}
    bus = await nats.connect(f"nats://{SERVER.hostname}:{SERVER.port or 4222}", max_reconnect_attempts=-1, **user)

    async def answer(message):  # nats-py logs an exception and calls this again for the next State.
        state = json.loads(message.data)
        if not state["version"].startswith("1.") or "allocation" not in state:
            return
        allocation, reason = decide(state, state["allocation"])
        action = {key: state[key] for key in ("namespace", "function", "epoch", "tick")}
        action |= {"version": "1.0", "agent": AGENT, "provenance": PROVENANCE, "allocation": allocation, "reason": reason}
        action["decided_at_ms"] = int(time.time() * 1000)
        action["expires_at_ms"] = max(action["decided_at_ms"], state["observed_at_ms"] + 2 * state["tick_length_ms"])
        trace = {key: value for key, value in (message.headers or {}).items() if key == "traceparent"}
        await bus.publish(f"qscale.v1.action.{AGENT}.{state['namespace']}.{state['function']}", json.dumps(action).encode(), headers=trace)

    await bus.subscribe("qscale.v1.state.>", queue=f"agent.{AGENT}", cb=answer)
    await asyncio.Event().wait()

asyncio.run(main())
