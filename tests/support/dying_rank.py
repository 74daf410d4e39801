"""The command line, with a second rank that is killed or asked to stop, as the first word says; for torchrun."""

import os
import signal
import sys

from gleanseg.cli.main import main
from gleanseg.engine.judge import Judge
from gleanseg.engine.loop import Trainer


def killed() -> None:
    """The second rank dies after two steps."""
    step = Trainer.train_step

    def dying(self: Trainer, *what: object) -> object:
        if self.fabric.global_rank == 1 and self.done == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *what)

    Trainer.train_step = dying


def asked() -> None:
    """The second rank is sent SIGTERM when a validation begins."""
    validate = Judge.validate

    def interrupted(self: Judge, *what: object, **options: object) -> object:
        if self.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(self, *what, **options)

    Judge.validate = interrupted


if __name__ == "__main__":
    {"killed": killed, "asked": asked}[sys.argv.pop(1)]()
    sys.exit(main())
