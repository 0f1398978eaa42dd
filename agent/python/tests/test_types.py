"""The package is typed: mypy accepts it, and the stubs describe the native module."""

import subprocess
import sys
from pathlib import Path

import qscale


def mypy(*arguments, cwd):
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stubs_describe_the_native_module(tmp_path):
    mypy("mypy.stubtest", "qscale._native", "--mypy-config-file", "/dev/null", cwd=tmp_path)


def test_code_of_users_is_checked(tmp_path):
    (tmp_path / "user.py").write_text((Path(__file__).resolve().parents[1] / "examples" / "cpu_70.py").read_text())
    mypy("mypy", "--strict", "user.py", cwd=tmp_path)
    wrong = "from qscale import State\n\ndef f(state: State) -> int:\n    return state.windows.tick.rate_rps\n"
    (tmp_path / "wrong.py").write_text(wrong)
    done = subprocess.run([sys.executable, "-m", "mypy", "wrong.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "float | None" in done.stdout, done.stdout


def test_every_public_name_exists():
    assert all(hasattr(qscale, name) for name in qscale.__all__)
