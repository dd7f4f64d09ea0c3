"""A node that a launch file has started ends when the launch does, however that ended.

The launch names its process in an environment variable. A thread waits for the end of that process and then
ends this one, as SIGTERM would: the arm comes to rest and bags are closed. As a command (a prefix of others'
nodes, which know nothing of it) it becomes the node that is started, and the kernel sends the signal.

    python -m twinbrain_ros.nodes.lifeline /opt/ros/.../joy_node --ros-args ...
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping

LAUNCHED_BY = "TWINBRAIN_LAUNCHED_BY"
_PR_SET_PDEATHSIG = 1


def end_with_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Sends this process SIGTERM once the launch that has started it is gone; nothing without one."""
    number = environment.get(LAUNCHED_BY, "")
    if not number.isdigit():
        return
    try:
        launch = os.pidfd_open(int(number))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)  # it is gone already
        return
    except OSError:
        return  # a kernel without pidfd (before 5.3), or another machine's number
    threading.Thread(target=_wait, args=(launch,), name="lifeline", daemon=True).start()


def _wait(launch: int) -> None:
    poll = select.poll()
    poll.register(launch, select.POLLIN)  # readable when the process has ended, whose ever child it is
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def main(command: list[str]) -> int:
    """Becomes the command, which is sent SIGINT when the thread that started it ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew
        return 1
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
