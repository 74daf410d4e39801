"""What ``gleanseg text`` does with texts about a task: have one written, show it, encode its responses."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from gleanseg.text.encoders.encoder import Encoder
    from gleanseg.text.texts import Text
    from gleanseg.text.vectors import Vectors

ALL = "all"
"""Stands for every text that gleanseg ships."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Have a language model describe a structure, once, and write what it said as a text that training can use.

    Asks any endpoint that speaks OpenAI's chat completions. A key is taken from OPENAI_API_KEY alone.

    Example: gleanseg text generate --structure "left atrium" --modality MRI --hints "pulmonary vein ostia" -o la.json
    """

    structure: str
    """What is segmented, in words."""
    modality: str
    """Of the images, such as CT or MRI."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Text to write (.json); must be new."""
    hints: str = ""
    """Structural features to consider, separated by commas."""
    model: str = "gpt-4"
    """Name of the model at the endpoint; the default is the paper's."""
    base_url: str | None = None
    """Of the endpoint, such as http://localhost:8000/v1. Default: OPENAI_BASE_URL, else OpenAI's."""
    num: int = 15
    """Responses to ask for."""
    min_words: int = 60
    """Words of each at least."""
    retries: int = 3
    """How often to ask again: after an unusable answer, as after a busy or silent server."""
    timeout_s: float = 180.0
    """How long the server may be silent."""

    def run(self) -> int:
        """Ask, check, write and show."""
        from rich.markup import escape

        from gleanseg.cli.progress import console
        from gleanseg.errors import UserError
        from gleanseg.text.chat import Endpoint
        from gleanseg.text.generate import generate_text

        if self.out.suffix != ".json" or self.out.exists():
            raise UserError(f"{self.out}: expected the name of a new .json file; vectors belong to a text's very words")
        endpoint = Endpoint.from_environment(
            self.base_url, model=self.model, retries=self.retries, timeout_s=self.timeout_s
        )
        text = generate_text(
            endpoint,
            structure=self.structure,
            modality=self.modality,
            hints=self.hints,
            num=self.num,
            min_words=self.min_words,
            note=lambda line: console.print(f"[dim]{escape(line)}[/]"),
        )
        text.save(self.out)
        show_text(text, self.out)
        return 0


def encode_knowledge(encoder: "Encoder", names: tuple[str, ...], out: Path, *, normalize: bool, half: bool) -> None:
    """Encode the responses of texts, write the vectors and show them.

    Args:
        encoder: computes the vectors.
        names: of shipped texts, JSON files, or ``all`` for the shipped ones.
        out: file to write.
        normalize: give every vector length 1.
        half: write half precision.
    """
    from gleanseg.text.texts import shipped_texts, text_named
    from gleanseg.text.vectors import Vectors

    texts = [text_named(name) for name in (shipped_texts() if names == (ALL,) else names)]
    vectors = Vectors.make(encoder, texts, normalize=normalize)
    vectors.save(out, half=half)
    show_vectors(vectors, out)


def show_text(text: "Text", path: Path) -> list[str]:
    """Print origin and responses of a text, then what is wrong with them.

    Args:
        text: to show.
        path: to call it by.

    Returns:
        What is wrong, one sentence each.
    """
    from rich.markup import escape

    from gleanseg.cli.progress import console
    from gleanseg.text.checks import problems_of, words_of

    num = len(text.responses)
    console.print(f"[bold]{escape(str(path))}[/]: {num} responses about the {text.structure}, {text.modality}")
    console.print(f"ROI {text.roi or 'unknown to the ontology'}, SHA-256 of the responses {text.sha256}", markup=False)
    console.print(", ".join(f"{key} {value}" for key, value in text.provenance.items()), markup=False)
    for i, response in enumerate(text.responses, start=1):
        console.print(f"{i:3}. {escape(response)} [dim]({len(words_of(response))} words)[/]")
    problems = problems_of(text.responses, structure=text.structure)
    for problem in problems:
        console.print(f"[yellow]{escape(problem)}[/]")
    return problems


def show_vectors(vectors: "Vectors", path: Path) -> None:
    """Print of which texts there are vectors, how they were made, and how alike the responses of a text are.

    Args:
        vectors: to show.
        path: to call them by.
    """
    from rich.markup import escape

    from gleanseg.cli.progress import console
    from gleanseg.text.table import unit_rows

    made = vectors.made
    console.print(f"[bold]{escape(str(path))}[/]: vectors of {len(vectors.rows)} text{'s' * (len(vectors.rows) != 1)}")
    console.print(f"encoder {escape(made.encoder)}, {escape(made.revision)}, pooling {made.pooling}")
    console.print(f"weights SHA-256 {made.weights_sha256}, {'' if made.normalized else 'not '}normalized", markup=False)
    for name, rows_ND in vectors.rows.items():
        num, dim = rows_ND.shape
        unit = unit_rows(rows_ND)
        alike = f", mean cosine {((unit @ unit.T).sum() - num) / (num * (num - 1)):.3f}" if num > 1 else ""
        console.print(f"  {name}  [dim]{num} responses, {dim} numbers each{alike}[/]")
