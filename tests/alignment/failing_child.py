"""A run in which rank 1 fails in its third step: ``failing_child.py SPEC raise|kill``, started by torchrun."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from worker.alignment.__main__ import main
from worker.alignment.policy import Policy
from worker.alignment.step import StepBatch, StepResult, StepSettings, backward_step

done = 0


def failing(policy: Policy, batch: StepBatch, settings: StepSettings) -> StepResult:
    global done  # noqa: PLW0603 - the process is the test's own
    done += 1
    if policy.world.rank == 1 and done == 3:
        if sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ZeroDivisionError("the other one")
    return backward_step(policy, batch, settings)


if __name__ == "__main__":
    vars(import_module("worker.alignment.trainer"))["backward_step"] = failing
    os._exit(main(["train", sys.argv[1]]))
