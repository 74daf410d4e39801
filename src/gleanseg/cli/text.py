"""``gleanseg text``: tables of text vectors, one per ROI, and what is in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from gleanseg.rois.ontology import Ontology
    from gleanseg.text.table import Table

_MOST_PAIRS = 5
_MOST_ROWS = 12


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode the prompts of ROIs and write a table that training loads.

    Example: gleanseg text encode --encoder biomedclip --model-path BiomedCLIP -o biomedclip.safetensors

    Without --manifest and --rois the table holds all built-in ROIs.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Table to write (.safetensors)."""
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
    template: str = "image_of"
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
        from gleanseg.errors import UserError
        from gleanseg.text.encoders import build_encoder
        from gleanseg.text.prompts import prompts_of, template_named
        from gleanseg.text.table import Table

        if self.out.is_dir():
            raise UserError(f"{self.out}: a folder; name the file to write, such as {self.out / 'table.safetensors'}")
        template_named(self.template)
        ontology, ids, modality = self._wanted()
        prompts = prompts_of([ontology[id] for id in ids], template=self.template, modality=modality)
        encoder = build_encoder(self.encoder, model_path=self.model_path, pooling=self.pooling, revision=self.revision)
        table = Table.make(
            encoder,
            {id: [prompt] for id, prompt in prompts.items()},
            template=self.template,
            modality=modality,
            normalize=self.normalize,
        )
        table = table.center() if self.center else table
        table.save(self.out, half=self.half)
        show_table(table, self.out)
        return 0

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
    """Tell what a table holds, how it was made, and how alike its rows are."""

    table: tyro.conf.Positional[Path]
    """Table of gleanseg text encode; or minilm-ct, minilm-mr for those that gleanseg ships."""

    def run(self) -> int:
        """Load and show."""
        from gleanseg.text.sources import shipped
        from gleanseg.text.table import Table

        name = str(self.table)
        if name in ("minilm-ct", "minilm-mr") and not self.table.exists():
            show_table(shipped(name.removeprefix("minilm-").upper()), self.table)
        else:
            show_table(Table.load(self.table), self.table)
        return 0


Choice = Annotated[Encode, tyro.conf.subcommand("encode")] | Annotated[Show, tyro.conf.subcommand("show")]


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make or show a table of text vectors, one per ROI, for text-conditioned networks (gleanseg text show minilm-ct).

    Training needs none of this for built-in ROIs: their vectors come with gleanseg.
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
