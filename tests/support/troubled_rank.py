"""The command line, with a second rank that something happens to, as the first word says; for torchrun."""

import os
import signal
import sys

from gleanseg.cli.main import main
from gleanseg.engine.fit import Session
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


def slow() -> None:
    """The second rank's clock never finds a checkpoint overdue, the first's always; SIGTERM comes at a checkpoint."""
    step, session = Trainer.train_step, Session.__init__

    def begun(self: Session, *what: object, **options: object) -> None:
        session(self, *what, **options)
        self._saved += 1e6 if self.fabric.global_rank == 1 else -1e6

    def asked_at_2(self: Trainer, *what: object) -> object:
        done = step(self, *what)
        if self.fabric.global_rank == 1 and self.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return done

    Session.__init__, Trainer.train_step = begun, asked_at_2


if __name__ == "__main__":
    {"killed": killed, "asked": asked, "slow": slow}[sys.argv.pop(1)]()
    sys.exit(main())
