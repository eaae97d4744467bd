"""jupyter-server, with the loop that the session asks for: by a policy, as jupyter makes its loop itself."""

from __future__ import annotations

import asyncio
import sys
import warnings

from support import loops

warnings.simplefilter("ignore")
make = loops.tested()


class Policy(asyncio.DefaultEventLoopPolicy):
    """Every loop is of this kind."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop."""
        return make()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(Policy())
    from jupyter_server.serverapp import ServerApp

    options = {"port": sys.argv[1], "root_dir": sys.argv[2], "open_browser": False, "log_level": "CRITICAL"}
    argv = [f"--ServerApp.{name}={value}" for name, value in options.items()]
    argv += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--allow-root"]
    ServerApp.launch_instance(argv)
