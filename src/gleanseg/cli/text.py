"""``gleanseg text``: vectors of ROIs and of texts about a task, and what is in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gleanseg.cli.knowledge import Generate

if TYPE_CHECKING:
    from gleanseg.rois.ontology import Ontology
    from gleanseg.text.encoders.encoder import Encoder
    from gleanseg.text.table import Table

_MOST_PAIRS = 5
_MOST_ROWS = 12
_DEFAULT_TEMPLATE = "image_of"
_TABLES = ("minilm-ct", "minilm-mr")


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode the prompts of ROIs, or with --knowledge the responses of texts, and write a file that training loads.

    Example: gleanseg text encode --encoder biomedclip --model-path BiomedCLIP -o biomedclip.safetensors

    Without --manifest, --rois and --knowledge the table holds all built-in ROIs.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write (.safetensors)."""
    knowledge: tuple[str, ...] = ()
    """Encode these texts about a task: names such as left_atrium, JSON files of gleanseg text generate, or all."""
    encoder: str = "minilm"
    """minilm (needs no network), biomedclip, bert or pubmedbert."""
    model_path: Path | None = None
    """Folder with the encoder's files; needed where the model hub is not reached."""
    revision: str | None = None
    """Commit, branch or tag on the model hub. Default: the newest; the table records which."""
    manifest: Path | None = None
    """Encode the ROIs of this manifest, with those that it declares."""
    rois: tuple[str, ...] = ()
    """Encode these ROI ids only."""
    template: str = _DEFAULT_TEMPLATE
    """image_of, bare, photo, there_is, scan, or a text with {x} for the ROI."""
    modality: Literal["CT", "MR"] | None = None
    """What prompts speak of. Default: the modality of the manifest's first channel, else CT."""
    pooling: str | None = None
    """How tokens become one vector: mean, cls, embeddings or token_ids, as far as the encoder has it."""
    center: bool = False
    """Subtract the mean row of all built-in ROIs. Training does it when it loads the table, if it is not done here."""
    normalize: bool = True
    """Rows get length 1, or with this flag off the length that the encoder gives."""
    half: bool = False
    """Write half precision."""

    def run(self) -> int:
        """Encode, save and show."""
        from gleanseg.cli.knowledge import encode_knowledge
        from gleanseg.errors import UserError
        from gleanseg.text.prompts import prompts_of, template_named
        from gleanseg.text.table import Table

        if self.out.is_dir():
            raise UserError(f"{self.out}: a folder; name the file to write, such as {self.out / 'table.safetensors'}")
        if self.knowledge:
            self._knowledge_alone()
            encode_knowledge(self._encoder(), self.knowledge, self.out, normalize=self.normalize, half=self.half)
            return 0
        template_named(self.template)
        ontology, ids, modality = self._wanted()
        prompts = prompts_of([ontology[id] for id in ids], template=self.template, modality=modality)
        table = Table.make(
            self._encoder(),
            {id: [prompt] for id, prompt in prompts.items()},
            template=self.template,
            modality=modality,
            normalize=self.normalize,
        )
        table = table.center() if self.center else table
        table.save(self.out, half=self.half)
        show_table(table, self.out)
        return 0

    def _encoder(self) -> "Encoder":
        from gleanseg.text.encoders import build_encoder

        return build_encoder(self.encoder, model_path=self.model_path, pooling=self.pooling, revision=self.revision)

    def _knowledge_alone(self) -> None:
        """Refuse what says something of ROIs only."""
        from gleanseg.errors import UserError

        given = {
            "--manifest": self.manifest is not None,
            "--rois": bool(self.rois),
            "--template": self.template != _DEFAULT_TEMPLATE,
            "--modality": self.modality is not None,
            "--center": self.center,
        }
        for flag, is_given in given.items():
            if is_given:
                raise UserError(f"{flag}: is about prompts of ROIs; leave it out beside --knowledge")

    def _wanted(self) -> "tuple[Ontology, tuple[str, ...], str]":
        """Ontology, ROI ids and modality."""
        from gleanseg.rois.ontology import builtin
        from gleanseg.text.prompts import modality_named

        if self.manifest is None:
            return builtin(), self.rois or tuple(builtin()), self.modality or "CT"
        from gleanseg.data.manifest import Manifest

        manifest = Manifest.load(self.manifest)
        modality = self.modality or modality_named(manifest.channels[0].modality)
        return manifest.ontology(), self.rois or manifest.rois, modality


@dataclass(frozen=True, kw_only=True)
class Show:
    """Tell what a table, a file of vectors or a text holds, how it was made, and how alike its rows are.

    Exits with 1 for a text with responses that are too few, too short, alike or refusals.
    """

    what: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE|NAME")]
    """File of gleanseg text encode or gleanseg text generate; or the name of what gleanseg ships: minilm-ct, minilm-mr,
    or a text such as left_atrium."""

    def run(self) -> int:
        """Load and show."""
        from gleanseg.cli.knowledge import show_text, show_vectors
        from gleanseg.errors import UserError, nearest
        from gleanseg.text.sources import shipped
        from gleanseg.text.table import Table
        from gleanseg.text.texts import shipped_texts, text_named
        from gleanseg.text.vectors import Vectors

        name = str(self.what)
        if self.what.suffix == ".json" or name in shipped_texts():
            return 1 if show_text(text_named(name), self.what) else 0
        if name in _TABLES and not self.what.exists():
            show_table(shipped(name.removeprefix("minilm-").upper()), self.what)
        elif not self.what.suffix and not self.what.exists():
            near = nearest(name, (*_TABLES, *shipped_texts()))
            raise UserError(f"{name}: no such table, file of vectors or text{near}")
        elif Vectors.is_in(self.what):
            show_vectors(Vectors.load(self.what), self.what)
        else:
            show_table(Table.load(self.what), self.what)
        return 0


Choice = (
    Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make or show what text-conditioned networks are told: a vector per ROI, or texts about the task.

    Training needs none of this for built-in ROIs and for the texts that gleanseg ships: their vectors come with it
    (gleanseg text show minilm-ct, gleanseg text show left_atrium).
    """

    what: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Choice]]

    def run(self) -> int:
        """Run the chosen one."""
        return self.what.run()


def show_table(table: "Table", path: Path) -> None:
    """Print names, origin, and cosines between different rows, as made and with the mean row subtracted.

    Args:
        table: to show.
        path: to call it by.
    """
    from rich.markup import escape

    from gleanseg.cli.progress import console

    origin = table.origin
    rows, dim = table.vectors_KD.shape
    console.print(f"[bold]{escape(str(path))}[/]: {rows} ROI{'s' if rows != 1 else ''}, {dim} numbers each")
    console.print(f"encoder {escape(origin.encoder)}, {escape(origin.revision)}, pooling {origin.pooling}")
    console.print(f"weights SHA-256 {origin.weights_sha256}", markup=False)
    made = f"{'' if origin.normalized else 'not '}normalized, {'' if origin.centered else 'not '}centered"
    console.print(f"template {escape(origin.template)}, modality {origin.modality}; {made}")
    for name in table.names[:_MOST_ROWS]:
        console.print(f"  {name}  [dim]{escape(' | '.join(table.prompts[name]))}[/]")
    if rows > _MOST_ROWS:
        console.print(f"  [dim]and {rows - _MOST_ROWS} more[/]")
    if rows > 1:
        console.print("cosine between different ROIs: min / mean / max")
        for what, shown in {"as saved": table, "centered": table.center()}.items():
            if what == "as saved" or not origin.centered:
                low, mean, high = spread(shown)
                console.print(f"  {what}: {low:.3f} / {mean:.3f} / {high:.3f}")
        console.print("most alike:")
        for cosine, a, b in most_alike(table)[:_MOST_PAIRS]:
            console.print(f"  {cosine:.3f}  {a}, {b}")


def spread(table: "Table") -> tuple[float, float, float]:
    """Least, mean and greatest cosine between different rows."""
    cosines = [cosine for cosine, _, _ in most_alike(table)]
    return cosines[-1], sum(cosines) / len(cosines), cosines[0]


def most_alike(table: "Table") -> list[tuple[float, str, str]]:
    """Cosine and names of every two rows, the most alike first."""
    cosines = table.cosines()
    pairs = [
        (float(cosines[i, j]), table.names[i], table.names[j])
        for i in range(len(table.names))
        for j in range(i + 1, len(table.names))
    ]
    return sorted(pairs, key=lambda pair: -pair[0])
