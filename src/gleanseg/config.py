"""The recipe: one strict TOML file that fixes one run completely.

Sizes and spacings in recipes are x, y, z, as papers write them (112x112x80); ``*_ZYX`` properties turn them round once.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gleanseg.errors import UserError
from gleanseg.reading import read_text
from gleanseg.strict import Section, validate

Positive = Annotated[int, Field(gt=0)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
_NO_EFFECT_ON_WEIGHTS = (  # keys of [train]
    "log_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "devices",
    "nodes",
    "accelerator",
    "requeue",
    "validate_every",
    "select",
)


class Named(BaseModel):
    """A network or method by file name; the other keys are its own options, checked by its ``Config``."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.model_extra or {})


class DataConfig(Section):
    """What of the manifest this run may see. Hidden labels never reach a batch."""

    rois: tuple[str, ...] = ()
    """ROIs to learn; empty: all of the manifest."""
    labelled: Annotated[int, Field(gt=0)] | Share | tuple[str, ...] | None = None
    """Training cases that keep their labels: a number, a share of those that have labels, or case ids."""
    labelled_seed: int = 0
    """Draws which cases stay labelled; apart from ``seed``, so that repeated runs see the same cases."""
    labelled_order: Literal["random", "first"] = "random"
    """A number or share of labelled cases is drawn, or taken from the front of the manifest, as published lists do."""
    annotate: dict[str, tuple[str, ...]] = {}
    """Site -> the only ROIs that it annotates; the others become unknown there."""
    fold: int | None = None
    """Cross-validation: this part of ``folds`` validates, all other train and validation cases train."""
    folds: Positive = 5

    @model_validator(mode="after")
    def _fold_exists(self) -> "DataConfig":
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise ValueError(f"fold must be 0 to {self.folds - 1}, found {self.fold}")
        return self


class PrepareConfig(Section):
    """How volumes are brought onto one grid and intensity scale."""

    spacing: Literal["auto"] | tuple[float, float, float] = "auto"
    """Voxel size in mm (x, y, z)."""
    resample: Literal["linear", "cubic"] = "cubic"
    """Interpolation of images (measured: benchmarks/results/storage.json); nested labels stay nested either way."""
    intensity: Literal["auto", "ct", "window", "zscore", "none", "volume-zscore", "window-zscore", "brain-zscore"] = (
        "auto"
    )
    """``ct`` clips to the window and standardizes by the training foreground; ``window`` maps the window to [-1, 1],
    alike for every data set, as a network needs it that judges images of another. Of published benchmarks:
    ``volume-zscore`` takes mean and deviation of the volume before cropping (Left Atrium), ``window-zscore`` of the
    crop within the window (Pancreas-CT), ``brain-zscore`` of the voxels above 0 for all voxels, clipped at the gray
    level that 99.9 % lie below (BraTS)."""
    window: tuple[float, float] | None = None
    """HU window for CT; without it ``ct`` takes the 0.5 and 99.5 percentiles of the annotated foreground."""
    crop: Literal["auto", "none", "nonzero", "body", "labels"] = "auto"
    """``labels`` is the protocol of Left Atrium and Pancreas-CT: in x and y, what lies around the labels. It reads the
    labels of every case, hidden ones and those of **test cases** too, and images without labels cannot be predicted."""
    label_margin: Annotated[int, Field(ge=0)] = 25
    """Crop ``labels``: prepared voxels kept on each side in x and y."""
    label_least: Annotated[int, Field(ge=0)] = 0
    """Crop ``labels``: prepared voxels that the labels' box is filled up to before; as published, the patch's side."""

    @model_validator(mode="after")
    def _window_is_given(self) -> "PrepareConfig":
        if self.intensity in ("window", "window-zscore") and self.window is None:
            raise ValueError(f"intensity = {self.intensity!r} needs window = [low, high], for example [-325, 325]")
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError(f"window must rise, found {list(self.window)}")
        return self

    @property
    def spacing_ZYX(self) -> tuple[float, float, float] | None:
        """The spacing turned round, or None when it is planned from the data."""
        return None if self.spacing == "auto" else (self.spacing[2], self.spacing[1], self.spacing[0])


class SamplingConfig(Section):
    """Patches and batches."""

    patch: Literal["auto"] | tuple[Positive, Positive, Positive] = "auto"
    """Voxels (x, y, z); auto: the median volume's shape, shrunk to ``max_voxels``."""
    max_voxels: Positive = 160_000
    """Upper bound of an automatic patch."""
    batch: Positive = 4
    """Patches per optimiser step over all devices."""
    labelled_batch: Positive | None = None
    """Rows of the batch that come from labelled cases when the method wants unlabelled ones too; default half."""
    foreground: Share = 0.5
    """Share of labelled patches that are centred on a voxel of an annotated ROI."""
    workers: Positive = 2
    """Threads that read and decompress patches."""

    @model_validator(mode="after")
    def _labelled_fits(self) -> "SamplingConfig":
        if self.labelled_batch is not None and self.labelled_batch > self.batch:
            raise ValueError(f"labelled_batch ({self.labelled_batch}) must not exceed batch ({self.batch})")
        return self


class AugmentConfig(Section):
    """Spatial changes are shared by all views of a patch; ``strong`` views get further intensity changes."""

    mirror: Literal["auto"] | tuple[Literal["x", "y", "z"], ...] = "auto"
    """Axes to flip with probability 1/2; auto: all, but not x when a sided ROI (left, right) is learnt."""
    rotate90: bool = False
    """Turn every patch by 0, 90, 180 or 270 degrees about the z axis."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    rotation_probability: Share = 0.2
    zoom: tuple[float, float] = (0.8, 1.25)
    zoom_probability: Share = 0.2
    intensity: bool = True
    """Scale and shift every view a little."""
    strong: bool = True
    """Noise, blur, brightness, contrast, low resolution and gamma on ``strong`` views; off: they equal ``weak``."""


class OptimizerConfig(Section):
    """One optimiser per player; all share these settings but adversaries, which take those of their method."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    momentum: Share = 0.9
    nesterov: bool = False
    schedule: Literal["constant", "cosine", "poly", "step"] = "cosine"
    step_every: Positive = 2500
    """Schedule ``step``: steps between two divisions of the rate by 10."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises from 0."""
    clip: Annotated[float, Field(ge=0)] = 12.0
    """Bound of the gradient's norm; 0: none."""


class TrainConfig(Section):
    """Length, precision, and how often things are written."""

    steps: Positive = 1000
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: Positive = 1
    """Micro-batches per optimiser step; ``sampling.batch`` is divided among them."""
    compile: bool = False
    log_every: Positive = 10
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between validations; 0: never."""
    checkpoint_every: Positive = 200
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """A checkpoint is also written when this much time has passed since the last one."""
    select: Literal["last", "best"] = "last"
    """Which checkpoint predicts by default: the last, or the best on the validation split."""
    devices: Literal["auto"] | Positive = "auto"
    nodes: Positive = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    requeue: bool = False
    """On SIGTERM under SLURM, ask SLURM to queue the job again."""


class PresenceConfig(Section):
    """The trained ROI-aware network that methods such as ``latent_class`` consult."""

    run: Path | None = None
    """Run folder of a recipe whose method is ``presence``; prepared as this recipe prepares."""
    tumors: Literal["organ", "own"] = "organ"
    """Whose presence counts for an ROI that lies in another: the organ's, as published, or its own where known."""


class TextConfig(Section):
    """Language knowledge of the task at the networks' bottlenecks (LLM-SegNet)."""

    knowledge: tuple[str, ...] = ()
    """Texts about what is segmented: names that gleanseg ships, such as ``left_atrium``, or JSON files of
    ``gleanseg text generate``; where there are several, what they say is averaged. Empty: networks without text."""
    vectors: str = "minilm"
    """What turned the texts into vectors: ``minilm`` (shipped), ``random`` (a control), or a file of
    ``gleanseg text encode --knowledge``."""
    beta: float = 0.1
    """Strength: what is added to the bottleneck is beta * MLP(vector); 0 leaves the image alone."""
    fusion: Literal["add", "film"] = "add"
    """``add`` to every voxel, as published, or ``film``: scale every channel, too."""
    at: Literal["latent", "pre-activation"] = "latent"
    """After the bottleneck's last activation, as published, or before it."""
    draw: Literal["random", "mean"] = "random"
    """In training each patch gets one response of each text, or their mean; prediction takes the mean."""

    def under(self, base: Path) -> "TextConfig":
        """The same with files under a folder; names, which have no suffix, stay."""
        placed = [str(base / name) if Path(name).suffix else name for name in (*self.knowledge, self.vectors)]
        return self.model_copy(update={"knowledge": tuple(placed[:-1]), "vectors": placed[-1]})


class PredictConfig(Section):
    """Sliding-window inference."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    stride: tuple[Positive, Positive, Positive] | None = None
    """Voxels (x, y, z) from one window to the next, in place of ``overlap``; at most the patch."""
    blend: Literal["gaussian", "constant"] = "gaussian"
    average: Literal["logits", "probabilities"] = "logits"
    """What overlapping windows average; the semi-supervised literature averages probabilities."""
    window_batch: Positive = 1
    """Windows per forward pass."""
    mirror: bool = False
    """Average over flips of the axes that training mirrored."""
    keep_largest: tuple[str, ...] = ()
    """ROIs of which only the largest component is kept."""
    min_component_mm3: Annotated[float, Field(ge=0)] = 0.0
    """Components of any ROI smaller than this are removed: crumbs where a structure is not in the scan at all."""
    gate: Share = 0.0
    """Windows in which the run's ROI-aware network scores an ROI below this do not look for it; 0: all do."""
    repair_hierarchy: bool = False
    """Remove voxels of a part that lie outside its predicted parent."""


class StageConfig(Section):
    """One part of a run; what it leaves out is taken from the recipe's own tables."""

    name: Word
    """Letters, digits, underscores and hyphens; checkpoints are named after it."""
    method: Named
    steps: Positive
    optimizer: OptimizerConfig | None = None
    start_from: str | None = None
    """Stage whose sub-modules of the same name and shape are loaded first; default: the stage before."""


class Recipe(Section):
    """One run, completely."""

    manifest: Path
    store: Path | None = None
    """Folder of prepared volumes; default: ``<manifest's name>.store`` beside the manifest."""
    seed: int = 0
    data: DataConfig = DataConfig()
    prepare: PrepareConfig = PrepareConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    network: Named = Named(name="unet3d")
    head: Named = Named(name="fixed")
    presence: PresenceConfig = PresenceConfig()
    text: TextConfig = TextConfig()
    method: Named = Named(name="supervised")
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    predict: PredictConfig = PredictConfig()
    stage: tuple[StageConfig, ...] = ()

    @model_validator(mode="after")
    def _stage_names(self) -> "Recipe":
        seen: list[str] = []
        for stage in self.stage:
            if stage.name in seen:
                raise ValueError(f"two stages are called {stage.name!r}; names must differ")
            if stage.start_from is not None and stage.start_from not in seen:
                raise ValueError(
                    f"stage {stage.name!r} starts from {stage.start_from!r}, which is not an earlier stage"
                )
            seen.append(stage.name)
        return self

    @classmethod
    def load(cls, path: Path, *, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe; ``overrides`` are ``table.key=value`` with a TOML value.

        Raises:
            UserError: the file is missing, not TOML, or has an unknown key or a bad value.
        """
        path = Path(path)
        try:
            raw = tomllib.loads(read_text(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such recipe; expected a TOML file") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); expected a TOML file") from None
        except RecursionError:
            raise UserError(f"{path}: not valid TOML: it is nested too deeply") from None
        except ValueError as error:  # TOML's and Unicode's errors, too
            raise UserError(f"{path}: not valid TOML: {error}") from None
        for override in overrides:
            _set(raw, override)
        recipe = validate(cls, raw, where=str(path))
        base = path.parent.resolve()
        presence = recipe.presence
        if presence.run is not None:
            presence = presence.model_copy(update={"run": base / presence.run})
        return recipe.model_copy(
            update={
                "manifest": base / recipe.manifest,
                "store": base / recipe.store if recipe.store else None,
                "presence": presence,
                "text": recipe.text.under(base),
            }
        )

    @property
    def store_path(self) -> Path:
        """Where the prepared volumes lie."""
        return self.store or self.manifest.with_suffix(".store")

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        """The stages with their gaps filled; a recipe without ``[[stage]]`` has one, called ``main``."""
        if not self.stage:
            return (StageConfig(name="main", method=self.method, steps=self.train.steps, optimizer=self.optimizer),)
        filled: list[StageConfig] = []
        for stage in self.stage:
            before = filled[-1].name if filled else None
            update = {"optimizer": stage.optimizer or self.optimizer, "start_from": stage.start_from or before}
            filled.append(stage.model_copy(update=update))
        return tuple(filled)

    def to_toml(self) -> str:
        """The resolved recipe as TOML; keys without a value are left out."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))

    def digest(self) -> str:
        """SHA-256 of all that decides the weights; where files lie, lengths of logs and devices do not."""
        dump = self.model_dump(mode="json", exclude={"manifest", "store", "predict"})
        for key in _NO_EFFECT_ON_WEIGHTS:
            dump["train"].pop(key)
        dump["sampling"].pop("workers")
        dump["presence"].pop("run")  # its weights' hash stands in run.json
        dump["text"]["knowledge"] = [Path(name).name for name in self.text.knowledge]
        dump["text"]["vectors"] = Path(self.text.vectors).name
        return hashlib.sha256(json.dumps(dump, sort_keys=True).encode()).hexdigest()


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--override {override!r}: expected table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: --override method.name=mean_teacher
    *tables, last = key.strip().split(".")
    for table in tables:
        raw = raw.setdefault(table, {})
        if not isinstance(raw, dict):
            raise UserError(f"--override {override!r}: {table!r} is not a table")
    raw[last] = value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value
