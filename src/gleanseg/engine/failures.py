"""What ends a training from outside, in one line: memory that ran out, a rank that is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gleanseg.errors import UserError, names_memory


@contextmanager
def failures_named(out: Path, *, ranks: int) -> Iterator[None]:
    """Name them where training runs.

    Args:
        out: run folder.
        ranks: processes that train together.

    Raises:
        UserError: in place of what was raised, when it was one of these.
    """
    remedy = (
        "free memory and continue with --resume, or start anew with a smaller sampling.patch or sampling.batch, or a "
        "larger train.accumulate"
    )
    with names_memory(str(out), remedy):
        try:
            yield
        except RuntimeError as error:
            if ranks == 1 or not _is_of_communication(error):
                raise
            said = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{out}: lost touch with another rank ({said}); that rank's own output tells why, and one that ended "
                "without a word was most likely killed for want of memory; mend it, then continue with --resume"
            ) from error


def _is_of_communication(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
