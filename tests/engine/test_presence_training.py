"""From a presence recipe to a segmentation run that consults it."""

import json
from pathlib import Path

import pytest
import torch

from gleanseg import api
from gleanseg.config import Recipe
from gleanseg.data.loader import collate, collate_truth
from gleanseg.engine.setup import set_up
from gleanseg.errors import UserError
from gleanseg.predict.predictor import Predictor
from gleanseg.run.folder import Run
from gleanseg.types import Views
from support.data import ROIS, prepared

CLASSIFIER = 'name = "resnet18"\nwidth = 8'
UNET = 'name = "unet3d"\nwidth = 4\nlevels = 3'
HIDE = '[data]\nannotate = {A = ["liver"], B = ["spleen"]}\n'


def presence_recipe(folder: Path, *, more: str = HIDE, steps: int = 4) -> Recipe:
    prepared(folder, method="presence", steps=steps, more=more)
    path = folder / "presence.toml"
    long = (folder / "recipe.toml").read_text().replace("patch = [16, 16, 16]", "patch = [16, 16, 32]")
    (folder / "recipe.toml").write_text(long)
    path.write_text(long.replace(UNET, CLASSIFIER))
    return Recipe.load(path)


def latent_recipe(folder: Path, *, more: str = "") -> Recipe:
    path = folder / "latent.toml"
    text = (folder / "recipe.toml").read_text().replace('name = "presence"', 'name = "latent_class"')
    path.write_text(text + '[presence]\nrun = "presence"\n' + more)
    return Recipe.load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("presence")
    api.fit(presence_recipe(folder), out=folder / "presence")
    return folder


def test_a_presence_run_is_calibrated_and_judged(folder: Path) -> None:
    run = Run.open(folder / "presence")
    assert run.info["temperature"] > 0
    groups = json.loads((folder / "presence" / "presence.json").read_text())["groups"]
    assert [group["group"] for group in groups] == ["known", "hidden"]
    for group in groups:
        assert [roi["roi"] for roi in group["rois"]] == list(ROIS)
        assert 0 <= group["ece"] <= 1
        assert sum(group["pairs"]) == sum(roi["present"] + roi["absent"] for roi in group["rois"])
    tumor = groups[1]["rois"][1]
    assert tumor["present"] + tumor["absent"] > 0, "site A's tumors are hidden from training, not from diagnostics"
    row = json.loads((folder / "presence" / "validation.jsonl").read_text().splitlines()[-1])
    assert row["metric"] == "auroc"


def test_a_presence_run_segments_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="segments nothing"):
        Predictor.from_run(folder / "presence")


def test_latent_class_mining_trains_logs_its_routes_and_predicts(folder: Path) -> None:
    recipe = latent_recipe(folder, more='[head]\nname = "dynamic"\nprojection = 8\ncodes = "one_hot"\n')
    run = api.fit(recipe, out=folder / "latent")
    assert run.info["codes"]["encoder"] == "one_hot"
    assert run.info["roi_aware"]["outputs"] == list(ROIS)
    row = json.loads((run.path / "log.jsonl").read_text().splitlines()[-1])
    shares = [row["monitors"][f"routed_{name}"] for name in ("positive", "negative", "ambiguous")]
    assert sum(shares) == pytest.approx(1)
    (folder / "presence").rename(folder / "moved")  # the run stands alone
    try:
        volume = torch.randn(1, 20, 20, 20).numpy()
        predictor = Predictor.from_run(run.path, precision="fp32")
        assert predictor.provenance["text_encoder"] == "one_hot"
        prediction = predictor.segment_prepared(volume)
        assert prediction.mask("spleen").shape == (20, 20, 20)
    finally:
        (folder / "moved").rename(folder / "presence")


def test_the_roi_aware_network_does_not_move(folder: Path) -> None:
    run = api.fit(latent_recipe(folder), out=folder / "frozen")
    before = (run.path / "roi_aware.safetensors").read_bytes()
    presence = Run.open(folder / "presence")
    from gleanseg.run.checkpoint import load

    ours, _ = load(run.path / "roi_aware.safetensors")
    theirs, _ = load(presence.checkpoint())
    assert all(torch.equal(value, theirs[f"method.net.{name}"]) for name, value in ours.items())
    assert before == (run.path / "roi_aware.safetensors").read_bytes()
    tensors, _ = load(run.checkpoint())
    assert not any("roi_aware" in name for name in tensors)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", r"method 'latent_class' needs a trained ROI-aware network"),
        ('[presence]\nrun = "nowhere"\n', "nowhere: not a run folder"),
        ('[presence]\nrun = "plain"\n', "was trained by method 'supervised'; expected 'presence'"),
    ],
)
def test_what_is_no_presence_run_is_refused(folder: Path, more: str, message: str) -> None:
    if "plain" in more and not (folder / "plain").exists():
        path = folder / "plain.toml"
        path.write_text((folder / "recipe.toml").read_text().replace('name = "presence"', 'name = "supervised"'))
        api.fit(Recipe.load(path), out=folder / "plain")
    path = folder / "bad.toml"
    text = (folder / "recipe.toml").read_text().replace('name = "presence"', 'name = "latent_class"')
    path.write_text(text + more)
    with pytest.raises(UserError, match=message):
        api.fit(Recipe.load(path), out=folder / "bad")
    assert not (folder / "bad").exists(), "nothing half-written is left"


def test_another_preparation_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = prepared(tmp_path, method="latent_class", more=f'[presence]\nrun = "{folder / "presence"}"\n')
    text = (tmp_path / "recipe.toml").read_text().replace("spacing = [2.0, 2.0, 2.5]", "spacing = [2.0, 2.0, 2.0]")
    (tmp_path / "recipe.toml").write_text(text)
    recipe = Recipe.load(tmp_path / "recipe.toml").model_copy(update={"store": tmp_path / "other.store"})
    api.prepare(recipe)
    with pytest.raises(UserError, match="was trained with spacing_ZYX_mm"):
        api.fit(recipe, out=tmp_path / "run")


def test_hidden_labels_are_in_the_truth_and_not_in_the_batch(folder: Path) -> None:
    from gleanseg.data.sampler import Sampler

    setup = set_up(Recipe.load(folder / "presence.toml"))
    sampler = Sampler(
        setup.store, setup.selection, patch_ZYX=(20, 22, 24), foreground=0.0, augment=setup.recipe.augment,
        mirror_ZYX=(False, False, False), seed=0,
    )  # fmt: skip
    rows = [sampler.patch("labelled", i) for i in range(6)]
    batch = collate(rows, patch_ZYX=(20, 22, 24), views=Views(("weak",)), num_labelled=6, device=torch.device("cpu"))
    truth = collate_truth(rows, batch, patch_ZYX=(20, 22, 24))
    assert not batch.known[:, 1].any()
    assert not batch.table[:, :, 1].any()
    assert truth.y()[:, 1].sum() > 0
    for row in range(6):
        seen = {tuple(sets) for sets in batch.table[row].tolist()}
        assert len(seen) >= batch.codes[row].unique().numel(), "codes tell apart what labels tell apart, no more"
    known = batch.known[:, :, None, None, None]
    assert torch.equal(batch.y() * known, truth.y() * known)
