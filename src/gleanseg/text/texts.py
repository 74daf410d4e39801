"""Texts about a task: what a language model or a person answered once to the published prompt, one JSON file each."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from gleanseg.errors import UserError, nearest
from gleanseg.strict import Section, validate
from gleanseg.text.files import write_bytes

Response = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_SHIPPED = Path(__file__).parent / "responses"  # package data lies beside the modules, also in an installed wheel
_PROMPT = (
    "Generate {num} descriptive crucial features, each of a minimum of {min_words} words for effectively segmenting the"
    " {structure} from 3D {modality} images, offering detailed insights into organ shape, structure, foreground and"
    " background details, anatomical landmarks, intensity characteristics, surrounding structures, contextual"
    " information.{hints} Each description should be distinctive to provide comprehensive guidance for successful"
    " segmentation."
)


class Text(Section):
    """Responses about one structure.

    Attributes:
        gleanseg_text: version of the format.
        name: what recipes call it; the file's name, not in the file.
        structure: that the prompt asked about.
        modality: of the images, as the prompt says it.
        roi: id of the ontology, where it knows the structure.
        prompt: that was asked.
        provenance: who answered, and when.
        responses: each about another feature.
    """

    gleanseg_text: Literal[1] = 1
    name: str = Field(default="", exclude=True)
    structure: Response
    modality: Response
    roi: str | None = None
    prompt: str = ""
    provenance: Mapping[str, str] = {}
    responses: Annotated[tuple[Response, ...], Field(min_length=1)]

    @classmethod
    def load(cls, path: Path) -> "Text":
        """Read a text.

        Raises:
            UserError: missing, not JSON, or an unknown, missing or wrong entry.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such text; make one with 'gleanseg text generate -o {path}'") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as JSON ({error}); expected a text of gleanseg") from None
        if not isinstance(raw, dict) or "gleanseg_text" not in raw:
            raise UserError(f"{path}: not a text of gleanseg: expected a JSON object with gleanseg_text = 1")
        return validate(cls, {**raw, "name": path.stem}, where=str(path))

    def save(self, path: Path) -> None:
        """Write the text, a response a line; it appears complete or not at all.

        Raises:
            UserError: not writable.
        """
        data = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)
        try:
            write_bytes(path, f"{data}\n".encode())
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); name another place with -o") from None

    @property
    def sha256(self) -> str:
        """Of the responses: what vectors belong to."""
        return hashlib.sha256(json.dumps(self.responses, ensure_ascii=False).encode()).hexdigest()


@cache
def shipped_texts() -> tuple[str, ...]:
    """Names of the texts that come with gleanseg."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.json")))


def text_named(name: str) -> Text:
    """A shipped text by its name, or the text of a JSON file.

    Raises:
        UserError: neither, or a broken file.
    """
    if name in shipped_texts():
        return Text.load(_SHIPPED / f"{name}.json")
    if Path(name).suffix != ".json":
        raise UserError(
            f"text {name!r}: neither a text that gleanseg ships{nearest(name, shipped_texts())}"
            f" (shipped: {', '.join(shipped_texts())}) nor a .json file of 'gleanseg text generate'"
        )
    return Text.load(Path(name))


def prompt_for(structure: str, modality: str, *, hints: str = "", num: int = 15, min_words: int = 60) -> str:
    """The published prompt.

    Args:
        structure: to segment, such as "left atrium".
        modality: of the images, such as "MRI".
        hints: structural features to consider, separated by commas.
        num: how many responses to ask for.
        min_words: of each.

    Reference: Kumari et al., LLM-SegNet, 2024, https://arxiv.org/abs/2407.05088
    """
    said = f" Consider including structural features such as {hints}." if hints else ""
    return _PROMPT.format(num=num, min_words=min_words, structure=structure, modality=modality, hints=said)
