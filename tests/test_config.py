from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanseg.config import Recipe
from gleanseg.errors import UserError
from gleanseg.strict import build_options

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*/*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_recipe_loads_and_its_names_resolve(path: Path) -> None:
    from gleanseg.resolve import resolve

    recipe = Recipe.load(path)
    methods = [stage.method for stage in recipe.stages]
    room_of_networks = resolve("methods", methods[0].name).networks  # type: ignore[attr-defined]
    for room, named in [
        (room_of_networks, recipe.network),
        ("networks.heads", recipe.head),
        *(("methods", method) for method in methods),
    ]:
        assert build_options(resolve(room, named.name).Config, named.options, where=str(path)) is not None  # type: ignore[attr-defined]
    patch, spacing = recipe.sampling.patch, recipe.prepare.spacing
    if patch != "auto" and room_of_networks == "networks":
        from gleanseg.networks import legal_patch

        spacing_ZYX_mm = (1.0, 1.0, 1.0) if spacing == "auto" else spacing[::-1]
        fits = legal_patch(
            recipe.network.name, recipe.network.options, patch_ZYX=patch[::-1], spacing_ZYX_mm=spacing_ZYX_mm
        )
        assert fits == patch[::-1], "the network cannot take the patch"


def test_sizes_are_turned_round_once(tmp_path: Path) -> None:
    text = 'manifest = "m.json"\n[prepare]\nspacing = [0.8, 0.9, 1.5]\n[sampling]\npatch = [112, 96, 80]\n'
    recipe = Recipe.load(write(tmp_path, text))
    assert recipe.prepare.spacing_ZYX == (1.5, 0.9, 0.8)
    assert recipe.sampling.patch == (112, 96, 80)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('manifest = "m.json"\n[optimizer]\nlearning_rate = 1.0', ["recipe.toml", "'learning_rate'", "[optimizer]"]),
        ('manifest = "m.json"\n[train]\nstep = 3', ["'step'", "did you mean 'steps'"]),
        ('manifest = "m.json"\n[trian]\nsteps = 3', ["'trian'", "did you mean 'train'"]),
        ('manifest = "m.json"\n[train]\nsteps = 0', ["train.steps", "greater than 0", "found 0"]),
        ('manifest = "m.json"\n[sampling]\nbatch = 2\nlabelled_batch = 3', ["labelled_batch (3)", "batch (2)"]),
        ('manifest = "m.json"\n[data]\nfold = 5', ["fold must be 0 to 4", "found 5"]),
        ('manifest = "m.json"\n[prepare]\nintensity = "window"', ["prepare", "needs window = [low, high]"]),
        ('manifest = "m.json"\n[prepare]\nwindow = [5, 5]', ["prepare", "window must rise, found [5.0, 5.0]"]),
        ('manifest = "m.json"\n[prepare]\nintensity = "window-zscore"', ["'window-zscore' needs window = [low, high]"]),
        ('manifest = "m.json"\n[predict]\nstride = [18, 0, 4]', ["predict.stride", "greater than 0"]),
        ("manifest = 3 4", ["not valid TOML"]),
        ("seed = 1", ["manifest", "required"]),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Recipe.load(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


VALUES = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
KEYS = [(t, k) for t, f in Recipe.model_fields.items() for k in (None, *getattr(f.annotation, "model_fields", ()))]


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_is_taken_or_refused_in_one_line(place: tuple[str, str | None], value: object) -> None:
    table, key = place
    more = {table: value} if key is None else {table: {"name": "x", key: value} if key == "name" else {key: value}}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(tomli_w.dumps({"manifest": "m.json", **more}), encoding="utf-8")
        try:
            recipe = Recipe.load(path)
        except UserError as error:
            message = str(error)
        else:
            path.write_text(recipe.to_toml(), encoding="utf-8")
            assert Recipe.load(path).digest() == recipe.digest()
            return
    assert "\n" not in message


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 65, "-a", ".."])
def test_names_of_stages_are_parts_of_file_names(tmp_path: Path, name: str) -> None:
    stage = f"manifest = 'm.json'\n[[stage]]\nname = '{name}'\nsteps = 3\nmethod = {{name = 'supervised'}}\n"
    with pytest.raises(UserError, match="name"):
        Recipe.load(write(tmp_path, stage))


def test_recipes_that_are_no_text_or_too_deep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Recipe.load(tmp_path)
    for content in (b"\xff\xfe", b"a = " + b"[" * 100_000):
        (tmp_path / "r.toml").write_bytes(content)
        with pytest.raises(UserError, match=r"r\.toml: not valid TOML"):
            Recipe.load(tmp_path / "r.toml")


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe"):
        Recipe.load(tmp_path / "absent.toml")


def test_overrides_take_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = write(tmp_path, 'manifest = "m.json"')
    recipe = Recipe.load(
        path, overrides=["optimizer.lr=0.01", "method.name=mean_teacher", "method.lam=0.2", "data.labelled=8"]
    )
    assert recipe.optimizer.lr == 0.01
    assert (recipe.method.name, recipe.method.options) == ("mean_teacher", {"lam": 0.2})
    assert recipe.data.labelled == 8
    with pytest.raises(UserError, match="did you mean 'lr'"):
        Recipe.load(path, overrides=["optimizer.lrr=1"])


@pytest.mark.parametrize(("value", "kind"), [("8", int), ("0.1", float), ('["a"]', tuple)])
def test_labelled_is_a_number_a_share_or_a_list(tmp_path: Path, value: str, kind: type) -> None:
    recipe = Recipe.load(write(tmp_path, f'manifest = "m.json"\n[data]\nlabelled = {value}'))
    assert isinstance(recipe.data.labelled, kind)


def test_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    data = '[data]\nlabelled = ["a", "b"]\nannotate = {A = ["liver"]}\n'
    text = f'manifest = "m.json"\n{data}[network]\nname = "vnet"\nwidth = 8\n'
    recipe = Recipe.load(write(tmp_path, text))
    again = Recipe.load(write(tmp_path, recipe.to_toml()))
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_digest_is_about_weights_not_about_logs(tmp_path: Path) -> None:
    path = write(tmp_path, 'manifest = "m.json"')
    plain = Recipe.load(path).digest()
    assert Recipe.load(path, overrides=["train.log_every=1", "sampling.workers=7"]).digest() == plain
    assert Recipe.load(path, overrides=["optimizer.lr=0.5"]).digest() != plain


def test_texts_are_names_or_files_beside_the_recipe(tmp_path: Path) -> None:
    text = 'manifest = "m.json"\n[text]\nknowledge = ["left_atrium", "own/la.json"]\nvectors = "v.safetensors"\n'
    recipe = Recipe.load(write(tmp_path, text))
    assert recipe.text.knowledge == ("left_atrium", str(tmp_path / "own" / "la.json"))
    assert recipe.text.vectors == str(tmp_path / "v.safetensors")
    assert Recipe.load(write(tmp_path, recipe.to_toml())) == recipe
    (tmp_path / "moved").mkdir()
    moved = Recipe.load(write(tmp_path / "moved", text))
    assert moved.text != recipe.text
    assert moved.digest() == recipe.digest()
    other = Recipe.load(write(tmp_path, text.replace("own/la", "own/lb")))
    assert other.digest() != recipe.digest()
    assert Recipe.load(write(tmp_path, 'manifest = "m.json"')).text.vectors == "minilm"


def test_stages_fill_their_gaps(tmp_path: Path) -> None:
    text = """
    manifest = "m.json"
    [[stage]]
    name = "first"
    steps = 3
    method = {name = "supervised"}
    [[stage]]
    name = "second"
    steps = 4
    method = {name = "mean_teacher", lam = 0.5}
    optimizer = {lr = 0.5}
    """
    first, second = Recipe.load(write(tmp_path, text)).stages
    assert first.optimizer is not None
    assert first.optimizer.lr == 1e-3
    assert (first.start_from, second.start_from) == (None, "first")
    assert second.optimizer is not None
    assert second.optimizer.lr == 0.5


def test_options_are_checked_against_their_owner() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        alpha: float = 0.99
        size: int

    assert build_options(Config, {"size": 3}, where="[method]") == Config(size=3)
    with pytest.raises(UserError, match=r"\[method\]: unknown key 'alhpa'; did you mean 'alpha'"):
        build_options(Config, {"alhpa": 1, "size": 3}, where="[method]")
    with pytest.raises(UserError, match="'size' is missing"):
        build_options(Config, {}, where="[method]")
    with pytest.raises(UserError, match=r"size: input should be a valid integer.*found 'big'"):
        build_options(Config, {"size": "big"}, where="[method]")
