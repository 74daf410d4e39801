"""A run folder, from its files to label maps."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import tyro
from stand_ins import make_plan

from gleanseg.cli.predict import Command
from gleanseg.config import Recipe
from gleanseg.data.manifest import Manifest
from gleanseg.errors import UserError
from gleanseg.networks import build as build_network
from gleanseg.predict.inputs import predict_inputs
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.run.checkpoint import save as save_checkpoint
from gleanseg.run.deploy import METHOD, load_deployed, make_method
from gleanseg.run.folder import Run, read_lines
from support.volumes import save

ROIS = ("liver", "kidney_left", "kidney_right")
RECIPE = """
manifest = "{manifest}"
[sampling]
patch = {patch}
[network]
{network}
[method]
name = "{method}"
[predict]
overlap = 0.25
{predict}
"""


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(18, 20, 22)).astype(np.float32)


UNET = """name = "unet3d"
width = 4
levels = 2"""


def make_run(
    folder: Path,
    *,
    method: str = "supervised",
    predict: str = "",
    network: str = UNET,
    patch: tuple[int, int, int] = (16, 16, 16),
) -> Run:
    """A run with random weights on a manifest of three cases, two of them for testing."""
    cases = [
        {"id": name, "split": split, "images": [save(folder / "images" / f"{name}.nii.gz", noise(seed))]}
        for seed, (name, split) in enumerate((("a", "train"), ("b", "test"), ("c", "test")))
    ]
    manifest = Manifest(name="noise", rois=ROIS, channels=({"name": "mr", "modality": "MR"},), cases=tuple(cases))
    manifest.save(folder / "manifest.json")
    (folder / "recipe.toml").write_text(
        RECIPE.format(
            manifest=folder / "manifest.json", method=method, predict=predict, network=network, patch=list(patch)
        )
    )
    recipe = Recipe.load(folder / "recipe.toml")
    info = {
        "rois": list(ROIS),
        "channels": ["mr"],
        "own_rois": {},
        "overlaps": [["liver", "kidney_right"]],
        "manifest": str(folder / "manifest.json"),
        "manifest_digest": manifest.digest(),
    }
    run = Run.create(
        folder / "run", recipe=recipe, plan=make_plan(ROIS, spacing_ZYX_mm=(1.0, 1.0, 1.0)), info=info, splits={}
    )
    torch.manual_seed(0)
    (stage,) = recipe.stages
    made = make_method(run, stage)
    for step in (1, 2):
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        tensors = {METHOD + name: tensor for name, tensor in made.state_dict().items()}
        save_checkpoint(run.checkpoint_path("main", step), tensors, {"stage": "main", "step": step})
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


def test_a_run_tells_how_to_predict(run: Run) -> None:
    predictor = Predictor.from_run(run.path, precision="fp32", device=torch.device("cpu"))
    assert predictor.rois == ROIS
    assert predictor.sliding.patch_ZYX == (16, 16, 16)
    assert predictor.sliding.step_ZYX == (12, 12, 12)
    assert predictor.sliding.flips == ((),)
    assert predictor.layering.num_layers == 2  # liver and right kidney were seen together
    assert not predictor.sliding.bf16
    assert predictor.provenance["checkpoint"] == "main-00000002.safetensors"
    (network,) = predictor.backends.networks
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    assert all(not p.requires_grad for p in network.parameters())


def test_predicting_needs_no_file_of_first_weights(tmp_path: Path) -> None:
    weights = tmp_path / "first.pt"
    encoder = build_network("swin_unetr", {"width": 12}, in_channels=1, num_rois=1).get_submodule("encoder")
    torch.save(encoder.state_dict(), weights)
    network = f'name = "swin_unetr"\nwidth = 12\npretrained = "{weights}"'
    run = make_run(tmp_path, network=network, patch=(64, 32, 32))
    weights.unlink()
    (deployed,) = load_deployed(run)
    assert deployed.num_rois == len(ROIS)


def test_checkpoints_can_be_chosen(run: Run, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    image = noise(9)[None]
    last = Predictor.from_run(run.path, precision="fp32", device=cpu).segment_prepared(image)
    first = Predictor.from_run(
        run.path, checkpoint=run.checkpoint_path("main", 1), precision="fp32", device=cpu
    ).segment_prepared(image)
    assert (first.flat() != last.flat()).any()
    with pytest.raises(UserError, match="no such checkpoint"):
        Predictor.from_run(run.path, checkpoint="best")
    with pytest.raises(UserError, match="method supervised offers net"):
        Predictor.from_run(run.path, deploy="teacher")
    with pytest.raises(UserError, match="not a run folder"):
        Predictor.from_run(tmp_path / "nothing")


def test_slab_wise_prediction_equals_the_network_itself(run: Run) -> None:
    """One window, so that nothing is blended: labels are those of the plain forward pass."""
    predictor = Predictor.from_run(run.path, precision="fp32", device=torch.device("cpu"))
    image = noise(3)[None, :16, :16, :16]
    (network,) = predictor.backends.networks
    with torch.no_grad():
        logits = network(torch.from_numpy(image[None]))[0].numpy()  # type: ignore[operator]
    found = predictor.segment_prepared(image)
    liver_and_left = np.where(logits[1] > np.maximum(logits[0], 0), 2, np.where(logits[0] > 0, 1, 0))
    np.testing.assert_array_equal(found.layers[0], liver_and_left)
    np.testing.assert_array_equal(found.mask("kidney_right"), logits[2] > 0)


def test_the_recipe_may_ask_for_mirroring(tmp_path: Path) -> None:
    run = make_run(tmp_path, predict="mirror = true\nkeep_largest = ['liver']")
    predictor = Predictor.from_run(run.path, device=torch.device("cpu"))
    assert predictor.sliding.flips == ((), (-3,), (-2,), (-3, -2))  # sided ROIs: training does not flip x
    assert predictor.sliding.swap is None
    wide = Predictor.from_run(run.path, device=torch.device("cpu"), options=Options(mirror_ZYX=(False, False, True)))
    assert wide.sliding.flips == ((), (-1,))
    assert wide.sliding.swap == (0, 2, 1)


def test_the_runs_own_test_split_is_the_default_and_is_logged(run: Run) -> None:
    predictor = Predictor.from_run(run.path, precision="fp32")
    out = predict_inputs(predictor, run)
    assert out == run.path / "predictions" / "test"
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["b.nii.gz", "c.nii.gz"]
    (access,) = read_lines(run.path / "access.jsonl")
    assert (access["split"], access["purpose"], access["cases"]) == ("test", "predict", 2)
    predict_inputs(predictor, run, split="train")
    assert len(read_lines(run.path / "access.jsonl")) == 1
    assert (run.path / "predictions" / "train" / "a.nii.gz").is_file()


def test_inputs_of_any_kind(run: Run, tmp_path: Path) -> None:
    predictor = Predictor.from_run(run.path, precision="fp32")
    predict_inputs(predictor, run, inputs=tmp_path / "images", out=tmp_path / "folder")
    predict_inputs(predictor, run, inputs=tmp_path / "images" / "b.nii.gz", out=tmp_path / "file")
    assert not (run.path / "access.jsonl").exists()
    predict_inputs(predictor, run, inputs=tmp_path / "manifest.json", out=tmp_path / "manifest")
    assert len(read_lines(run.path / "access.jsonl")) == 1  # the test cases of the run, under another name
    assert sorted(p.name for p in (tmp_path / "folder").glob("*.gz")) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    maps = [np.asarray(nib.load(tmp_path / d / "b.nii.gz").dataobj) for d in ("folder", "file", "manifest")]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
    assert len(np.unique(maps[0])) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda d: {"inputs": d / "images"}, "say where its predictions go: -o FOLDER"),
        (lambda d: {"inputs": d / "images", "out": d / "o", "split": "test"}, "--split chooses among the cases"),
        (lambda d: {"inputs": d / "none.json", "out": d / "o"}, "no such manifest"),
    ],
)
def test_mistakes_are_named(
    run: Run, tmp_path: Path, arguments: Callable[[Path], dict[str, Path]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        predict_inputs(Predictor.from_run(run.path), run, **arguments(tmp_path))
    assert not (tmp_path / "o").exists()


def test_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = [str(run.path), "-i", str(tmp_path / "images"), "-o", str(out), "--overlap", "0", "--mirror", "x", "y"]
    arguments += ["--probabilities", "Liver", "--repair", "remove", "--precision", "fp32", "--num-parts", "2"]
    assert tyro.cli(Command, args=arguments).run() == 0
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    assert sorted(p.name for p in (out / "probabilities").iterdir()) == ["a_liver.nii.gz", "c_liver.nii.gz"]
    origin = json.loads((out / "prediction.json").read_text())
    assert (origin["overlap"], origin["mirror"], origin["mirror_ZYX"]) == (0.0, True, [False, True, True])
    assert "labels.json" in capsys.readouterr().out
    strided = [
        str(run.path),
        "-i",
        str(tmp_path / "images" / "a.nii.gz"),
        "-o",
        str(tmp_path / "s"),
        "--stride",
        "16",
        "8",
        "4",
    ]
    assert tyro.cli(Command, args=strided).run() == 0
    assert json.loads((tmp_path / "s" / "prediction.json").read_text())["stride"] == [16, 8, 4]
    with pytest.raises(UserError, match="--overlap and --stride both say how windows lie"):
        tyro.cli(Command, args=[*strided, "--overlap", "0.5"]).run()
    bad = [str(run.path), "-i", str(tmp_path / "images"), "-o", str(out), "--overlap", "1.5"]
    with pytest.raises(UserError, match=r"overlap: input should be less than 1, found 1\.5"):
        tyro.cli(Command, args=bad).run()
