"""One thing that the doctor has to say."""

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How bad a finding is, worst first."""

    ERROR = "error"
    """Training would fail or learn something false."""
    WARNING = "warning"
    """Looks like a mistake, may be meant."""
    NOTE = "note"
    """Worth knowing."""


class Finding(NamedTuple):
    """One thing that the doctor found.

    Attributes:
        severity: how bad it is.
        code: kind of finding, such as ``undeclared-value``.
        case: id of the case; empty when it is about the whole data set.
        message: what was expected and what was found, with the file.
        remedy: what to do.
    """

    severity: Severity
    code: str
    case: str
    message: str
    remedy: str


def error(code: str, case: str, message: str, remedy: str) -> Finding:
    """A finding that fails the examination."""
    return Finding(Severity.ERROR, code, case, message, remedy)


def warning(code: str, case: str, message: str, remedy: str) -> Finding:
    """A finding that somebody should look at."""
    return Finding(Severity.WARNING, code, case, message, remedy)


def note(code: str, case: str, message: str, remedy: str) -> Finding:
    """A finding that is good to know."""
    return Finding(Severity.NOTE, code, case, message, remedy)
