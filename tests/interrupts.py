"""Interrupts of a training run at a known step."""

import os
import signal

from vmae_det.engine.trainer import HookBase


class StopAfter(HookBase):
    """An interrupt, in each process, after so many steps."""

    def __init__(self, step):
        self.step = step

    def before_step(self):
        if self.trainer.step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)
