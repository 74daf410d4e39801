"""Have a language model write a text: ask, read, check, and ask again with what was wrong."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from gleanseg.text.chat import Answer, Endpoint, Note, complete
from gleanseg.text.checks import MIN_WORDS, NUM, problems_of, refusal_in
from gleanseg.text.texts import Text, prompt_for

_FORMAT = " Answer with a JSON array of {num} strings and nothing else."
_AGAIN = "That cannot be used: {problems}. Write all {num} again, corrected, as a JSON array of strings."
_CUT_OFF = "the answer was cut off at the model's limit"
_MOST_TOLD = 5
_ITEM = re.compile(r"^\s*[*#]*\s*(\d+)\s*[.):]\s*(.*)$")


def generate_text(
    endpoint: Endpoint,
    *,
    structure: str,
    modality: str,
    hints: str = "",
    num: int = NUM,
    min_words: int = MIN_WORDS,
    note: Note = lambda line: None,
) -> Text:
    """A text with checked responses. No image is involved, and neither training nor prediction asks again.

    Args:
        endpoint: to ask; its ``retries`` bound how often an unusable answer is asked for again, too.
        structure: to describe, such as "left atrium".
        modality: of the images, such as "MRI".
        hints: structural features to consider, separated by commas.
        num: of responses.
        min_words: of each.
        note: told why something is asked again.

    Raises:
        UserError: the endpoint does not answer, or never usably.
    """
    if num < 1 or min_words < 1:
        raise UserError(f"--num {num}, --min-words {min_words}: expected at least 1 of each")
    prompt = prompt_for(structure, modality, hints=hints, num=num, min_words=min_words) + _FORMAT.format(num=num)
    messages = [{"role": "user", "content": prompt}]
    problems: list[str] = []
    for tried in range(endpoint.retries + 1):
        if tried:
            note(f"answer {tried} cannot be used: {problems[0]}; asking again")
        answer = complete(endpoint, messages, note=note)
        responses, problems = read_answer(answer, structure=structure, num=num, min_words=min_words)
        if not problems:
            return Text(
                structure=structure,
                modality=modality,
                roi=_roi_called(structure),
                prompt=prompt,
                provenance=_provenance(answer, prompt),
                responses=tuple(responses),
            )
        again = _AGAIN.format(problems="; ".join(problems[:_MOST_TOLD]), num=num)
        said = [{"role": "assistant", "content": answer.content}] if answer.content else []
        messages = [messages[0], *said, {"role": "user", "content": again}]
    do = (
        "ask for less with --num or --min-words" if problems[0] == _CUT_OFF else "try another --model or more --retries"
    )
    raise UserError(f"{endpoint.model}: no usable answer in {endpoint.retries + 1}; the last: {problems[0]}; {do}")


def read_answer(answer: Answer, *, structure: str, num: int, min_words: int) -> tuple[list[str], list[str]]:
    """Responses in an answer, and what is wrong with them."""
    if answer.finish == "length":
        return [], [_CUT_OFF]
    if answer.refusal or answer.finish == "content_filter":
        return [], [f"refused ({answer.refusal or 'content filter'})"]
    try:
        responses = parse(answer.content)
    except ValueError as error:
        return [], [str(error)]
    if not responses and (phrase := refusal_in(answer.content)):
        return [], [f"refused ({phrase!r})"]
    return responses, problems_of(responses, structure=structure, num=num, min_words=min_words)


def parse(content: str) -> list[str]:
    """Responses of a JSON array, bare or in a fence, or of a list numbered from 1.

    Raises:
        ValueError: it begins like JSON and is none, or not an array of strings.
    """
    bare = re.sub(r"^```\w*\s*|\s*```$", "", content.strip())
    if not bare.startswith(("[", "{")):
        return _numbered(content)
    try:
        told: Any = json.loads(bare)
    except ValueError as error:
        raise ValueError(f"malformed JSON ({error})") from None
    if isinstance(told, Mapping) and len(told) == 1:
        (told,) = told.values()
    if not isinstance(told, list) or not all(isinstance(item, str) for item in told):
        raise ValueError("JSON, but not an array of strings")
    return [_plain(item) for item in told]


def _numbered(content: str) -> list[str]:
    """Items of a list; what stands before the first and, as its own paragraph, behind the last is left out."""
    items: list[list[str]] = []
    for line in content.splitlines():
        found = _ITEM.match(line)
        if found and int(found[1]) == len(items) + 1:
            items.append([found[2]])
        elif items:
            items[-1].append(line)
    paragraphs = [re.split(r"\n\s*\n", "\n".join(lines).strip()) for lines in items]
    if paragraphs and all(len(p) == 1 for p in paragraphs[:-1]):
        paragraphs[-1] = paragraphs[-1][:1]
    return [_plain(" ".join(p)) for p in paragraphs]


def _plain(text: str) -> str:
    """Without emphasis and line breaks."""
    return " ".join(text.replace("**", "").replace("__", "").split())


def _roi_called(structure: str) -> str | None:
    try:
        return builtin().find(structure).id
    except UserError:
        return None


def _provenance(answer: Answer, prompt: str) -> dict[str, str]:
    """Model, date and prompt; not the endpoint, whose address may be nobody else's business."""
    return {
        "source": "generated",
        "model": answer.model,
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
    }
