"""Fixtures: the programs that the tests run, and whole systems with real servers."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAMS = Path(os.environ.get("QSCALE_PROGRAMS", REPOSITORY / "target" / "debug"))
TIMEOUT_S = 60.0


def eventually(what, condition, alive=lambda: None):
    """The first true result of `condition`. `alive` raises if it can no longer come true."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        alive()
        time.sleep(0.05)
    pytest.fail(f"timeout: {what}")


@pytest.fixture(scope="session")
def golden():
    """Folder of messages that must stay readable."""
    return REPOSITORY / "common" / "tests" / "golden"


@pytest.fixture(scope="session")
def qscale_program():
    """Path of the program `qscale`."""
    program = PROGRAMS / "qscale"
    if not program.exists():
        pytest.fail(f"{program} does not exist; run `make build`, or set QSCALE_PROGRAMS to the folder of the programs")
    return program


class System:
    """A running `qscale up`."""

    def __init__(self, program, folder, *arguments):
        self.program, self.folder, self.state = program, folder, folder / "state"
        self.log = folder / "up.log"
        command = [program, "up", "--plain", *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment(), start_new_session=True)
        eventually("qscale up", lambda: "[6/6]" in self.printed(), self.alive)

    def environment(self, **variables):
        server = os.environ.get("NATS_SERVER_BIN") or subprocess.check_output([REPOSITORY / "deploy" / "tools.sh"], text=True).strip()
        return os.environ | {"QSCALE_STATE": str(self.state), "NATS_SERVER_BIN": server} | variables

    def printed(self):
        return self.log.read_text()

    def alive(self):
        if self.process.poll() is not None:
            pytest.fail(f"qscale up ended:\n{self.printed()[-4000:]}")

    def qscale(self, *arguments):
        done = subprocess.run([self.program, *arguments], env=self.environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def credential(self, name):
        """The environment of agent `name`, which is added."""
        exports = (line.removeprefix("export ") for line in self.qscale("agent", "add", name).splitlines() if line.startswith("export "))
        return dict(line.split("=", 1) for line in exports)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="session")
def system(qscale_program, tmp_path_factory):
    """A system with real functions and load, under the agent `threshold`."""
    running = System(qscale_program, tmp_path_factory.mktemp("system"), "--load", "10", "--tick", "1s", "--agent", "threshold")
    yield running
    running.stop()
