"""The one exception that means: the user can mend this. The command line prints it without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class UserError(Exception):
    """A mistake in the user's files, recipe or call; one line that says what to do.

    Args:
        message: names the file and the case, what was expected, what was found, and what to do.
    """

    exit_code: ClassVar[int] = 2
    """What the command line exits with."""


def nearest(word: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Phrase ``; did you mean 'liver'?`` for the closest known words, or an empty string when none is close."""
    close = get_close_matches(word.casefold(), {k.casefold(): k for k in known}, n=limit, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
