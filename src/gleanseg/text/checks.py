"""What is wrong with the responses of a text: too few, too short, alike, off the subject, or refusals."""

import re
from collections.abc import Sequence
from itertools import combinations

from gleanseg.errors import UserError

NUM = 15
"""Responses of one text, as published."""
MIN_WORDS = 60
"""Words of each response at least, as published."""
_MOST_ALIKE = 0.2
_SHINGLE = 5  # words
_REFUSAL = re.compile(
    r"\b(as an ai\b|(large )?language model|i('m| am) (sorry|unable|not able)|i (cannot|can't|can not|won't)"
    r"|(cannot|can't|unable to) (assist|help|comply|provide))",
    re.IGNORECASE,
)


def problems_of(responses: Sequence[str], *, structure: str, num: int = NUM, min_words: int = MIN_WORDS) -> list[str]:
    """What is wrong with responses, one sentence each, in words that a language model can act on.

    Args:
        responses: of one text.
        structure: that they are about.
        num: how many there should be.
        min_words: how many words each should have.
    """
    found = [] if len(responses) == num else [f"{len(responses)} responses, expected {num}"]
    for i, response in enumerate(responses, start=1):
        if refusal := refusal_in(response):
            found.append(f"response {i} is a refusal ({refusal!r})")
        elif (words := len(words_of(response))) < min_words:
            found.append(f"response {i} has {words} words, expected at least {min_words}")
    for (i, a), (j, b) in combinations(enumerate(responses, start=1), 2):
        if (alike := similarity(a, b)) > _MOST_ALIKE:
            found.append(f"responses {i} and {j} are nearly the same ({alike:.0%} of their phrases)")
    subject = set(words_of(structure))
    if responses and not any(subject <= set(words_of(response)) for response in responses):
        found.append(f"no response speaks of the {structure}")
    return found


def validate_responses(
    responses: Sequence[str], *, structure: str, where: str, num: int = NUM, min_words: int = MIN_WORDS
) -> None:
    """Accept responses as ``problems_of`` does.

    Args:
        responses: of one text.
        structure: that they are about.
        where: file that the message names.
        num: how many there should be.
        min_words: how many words each should have.

    Raises:
        UserError: the first problem, and how many there are.
    """
    if found := problems_of(responses, structure=structure, num=num, min_words=min_words):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{where}: {found[0]}{more}; mend it, or make it again: gleanseg text generate")


def refusal_in(text: str) -> str:
    """The phrase by which a language model declines to answer; empty where there is none."""
    found = _REFUSAL.search(text.replace("\u2019", "'"))
    return found[0] if found else ""


def words_of(text: str) -> list[str]:
    """Words in lower case and American spelling; hyphens join, other signs separate."""
    return [word.replace("tumour", "tumor") for word in re.findall(r"[\w'-]*\w[\w'-]*", text.casefold())]


def similarity(a: str, b: str) -> float:
    """Share of the phrases of five words that two texts have in common (Jaccard index)."""
    phrases_a, phrases_b = _phrases(a), _phrases(b)
    return len(phrases_a & phrases_b) / len(phrases_a | phrases_b)


def _phrases(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}
