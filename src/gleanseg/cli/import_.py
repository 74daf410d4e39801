"""``gleanseg import``: from a data set's folder, in a layout that the field uses, to a manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union

import tyro

from gleanseg.data import sources

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True)
class From(Generic[OptionsT]):
    """One layout: the folder, the manifest to write, and the layout's own options."""

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("manifest.json")
    """Manifest to write; paths in it are relative to its folder."""
    layout: tyro.conf.OmitArgPrefixes[OptionsT]

    def run(self) -> int:
        """Import, save and say what came in."""
        from gleanseg.errors import UserError

        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder; name the folder of the data set")
        module = import_module(type(self.layout).__module__)
        manifest = module.to_manifest(self.root, self.layout)
        _save(manifest, self.out, notes=module.notes(manifest) if hasattr(module, "notes") else ())
        return 0


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Join manifests. What one of them does not annotate is unknown in its cases; equal ids get its name in front."""

    manifests: tyro.conf.Positional[tuple[Path, ...]]
    """Manifests to join, in this order."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Manifest to write."""
    name: str | None = None
    """Of the joined data set. Default: the names, joined by +."""

    def run(self) -> int:
        """Merge, save and say what came in."""
        from gleanseg.data.manifest import Manifest
        from gleanseg.errors import UserError

        if len(self.manifests) < 2:
            raise UserError(f"merge: found {len(self.manifests)} manifests, expected two or more")
        loaded = [Manifest.load(path) for path in self.manifests]
        _save(Manifest.merge(loaded, name=self.name or "+".join(m.name for m in loaded)), self.out)
        return 0


def _sources() -> list[tuple[str, type]]:
    """Each importer that the room holds, by file name, and its options."""
    found = []
    for module in iter_modules(sources.__path__):
        options = getattr(import_module(f"{sources.__name__}.{module.name}"), "Options", None)
        if options is not None:
            found.append((module.name, options))
    return found


def _choice() -> Any:
    """A union of all importers and ``merge``, which tyro turns into sub-commands."""
    kinds: list[Any] = []
    for name, options in _sources():
        kinds.append(Annotated[From[options], tyro.conf.subcommand(name, description=cleandoc(options.__doc__ or ""))])  # type: ignore[valid-type]
    return Union[*kinds, Annotated[Merge, tyro.conf.subcommand("merge")]]


if TYPE_CHECKING:
    Choice = From[Any] | Merge
else:
    Choice = _choice()


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a manifest from a data set's folder (gleanseg import msd Task03_Liver -o liver.json), or join manifests."""

    source: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Choice]]

    def run(self) -> int:
        """Run the chosen importer."""
        return self.source.run()


def _save(manifest: Any, out: Path, *, notes: Sequence[str] = ()) -> None:
    from collections import Counter

    from gleanseg.cli.progress import console
    from gleanseg.data.manifest import State

    manifest.save(out)
    splits = Counter(case.split for case in manifest.cases)
    labelled = sum(case.labels is not None for case in manifest.cases)
    said = ", ".join(f"{splits[name]} {name}" for name in ("train", "validation", "test") if splits[name])
    cases = f"{len(manifest.cases)} case{'s' if len(manifest.cases) != 1 else ''}"
    console.print(f"[bold]{out}[/bold]: {cases} ({said}), {labelled} with labels")
    counts: Counter[tuple[str, State]] = Counter()
    for case in manifest.cases:
        counts.update(manifest.states(case).items())
    shown = [f"{roi} {counts[roi, State.ANNOTATED]}" for roi in manifest.rois[:12]]
    more = f" and {len(manifest.rois) - 12} more" if len(manifest.rois) > 12 else ""
    console.print(f"cases that annotate each ROI: {', '.join(shown)}{more}")
    for note in notes:
        console.print(note)
    console.print(f"next: gleanseg doctor {out}")
