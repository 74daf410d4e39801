"""The one exception that means: the user can mend this. The command line prints it without a traceback."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar

_NO_MEMORY = ("out of memory", "can't allocate memory")


class UserError(Exception):
    """A mistake in the user's files, recipe or call; one line that says what to do.

    Args:
        message: names the file and the case, what was expected, what was found, and what to do.
    """

    exit_code: ClassVar[int] = 2
    """What the command line exits with."""


@contextmanager
def names_memory(where: str, remedy: str) -> Iterator[None]:
    """Call running out of memory by its name, whoever ran out: Python, numpy, or torch's allocators.

    Args:
        where: file or case at work.
        remedy: what to do.

    Raises:
        UserError: in place of the error, when it was that.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0]
        raise UserError(f"{where}: out of memory{f' ({said})' if said else ''}; {remedy}") from error


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch's allocators raise a RuntimeError."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def nearest(word: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Phrase ``; did you mean 'liver'?`` for the closest known words, or an empty string when none is close."""
    close = get_close_matches(word.casefold(), {k.casefold(): k for k in known}, n=limit, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
