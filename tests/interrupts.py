"""A hook that interrupts a training run at a given step."""

import os
import signal

from vmae_det.engine.trainer import HookBase


class StopAfter(HookBase):
    """Send SIGINT to each process after a number of steps."""

    def __init__(self, step):
        self.step = step

    def before_step(self):
        if self.trainer.step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)
