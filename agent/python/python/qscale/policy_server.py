"""Serves a policy on standard input and output for `qscale evaluate`: python -m qscale.policy_server MODULE:NAME

`qscale.serve(policy)` does the same at the end of a program; its documentation describes the lines.
"""

import importlib
import sys

from ._serve import serve


def main() -> None:
    """Serves the policy that the first argument names."""
    module, _, name = (sys.argv[1] if len(sys.argv) == 2 else "").partition(":")
    if not module or not name:
        sys.exit("usage: python -m qscale.policy_server MODULE:NAME")
    sys.path.insert(0, "")
    policy = getattr(importlib.import_module(module), name, None)
    if not callable(policy):
        sys.exit(f"{module} has no policy called {name}")
    serve(policy)


if __name__ == "__main__":
    main()
