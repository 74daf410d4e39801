import json
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from gleanseg.config import AugmentConfig, DataConfig, PrepareConfig
from gleanseg.data.loader import Loader, collate
from gleanseg.data.manifest import Manifest
from gleanseg.data.preprocess import prepare
from gleanseg.data.sampler import OUTSIDE, Patch, Sampler
from gleanseg.data.selection import overlaps, select
from gleanseg.data.store import Store
from gleanseg.errors import UserError
from gleanseg.types import Views
from support.data import ROIS, prepared, write_cases

PATCH = (16, 16, 16)
STILL = AugmentConfig(mirror=(), rotation_probability=0, zoom_probability=0, intensity=False, strong=False)
BOTH = Views(("weak", "strong"), unlabelled=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(prepared(tmp_path_factory.mktemp("store")).store_path)


def sampler(
    store: Store,
    *,
    augment: AugmentConfig = STILL,
    foreground: float = 1.0,
    seed: int = 0,
    data: DataConfig | None = None,
    patch: tuple[int, int, int] = PATCH,
) -> Sampler:
    selection = select(store, data or DataConfig())
    return Sampler(
        store,
        selection,
        patch_ZYX=patch,
        foreground=foreground,
        augment=augment,
        mirror_ZYX=(True, True, True) if augment.mirror else (False, False, False),
        seed=seed,
    )


def test_selection_keeps_roles_and_states(store: Store) -> None:
    chosen = select(store, DataConfig())
    assert chosen.rois == ROIS
    assert [c.id for c in chosen.labelled] == [f"c{i:02d}" for i in range(6)]
    assert [c.id for c in chosen.unlabelled] == ["c06", "c07"]
    assert [c.id for c in chosen.validation] == ["c08", "c09"]
    assert chosen.train[0].annotated.tolist() == [True, True, False]
    assert overlaps(store, chosen) == {frozenset({"liver", "liver_tumor"})}


def test_hidden_labels_overlap_nothing(store: Store) -> None:
    chosen = select(store, DataConfig(annotate=dict.fromkeys(set(store.sites), ("liver",))))
    assert overlaps(store, chosen) == frozenset()
    assert overlaps(store, select(store, DataConfig(rois=("liver_tumor",)))) == frozenset()


def test_overlaps_are_those_of_the_tables(store: Store) -> None:
    rows, pairs = store.overlaps
    found = {(store.ids[row], i, j) for row, (i, j) in zip(rows, pairs.tolist(), strict=True)}
    expected = set()
    for id in store.ids:
        table = store.case(id).table
        expected |= {(id, i, j) for i in range(3) for j in range(i + 1, 3) if (table[:, i] & table[:, j]).any()}
    assert expected
    assert found == expected


def test_hidden_labels_are_unknown(store: Store) -> None:
    fewer = select(store, DataConfig(labelled=2))
    more = select(store, DataConfig(labelled=4))
    assert len(fewer.labelled) == 2
    assert {c.id for c in fewer.labelled} < {c.id for c in more.labelled}
    assert not any(c.known.any() for c in fewer.unlabelled)
    only_liver = select(store, DataConfig(annotate={"A": ("liver",)}))
    assert only_liver.train[0].annotated.tolist() == [True, False, False]
    assert only_liver.digest() != fewer.digest()
    assert len(select(store, DataConfig(labelled=0.5)).labelled) == 3
    assert [c.id for c in select(store, DataConfig(labelled=("c04",))).labelled] == ["c04"]


def test_the_first_of_the_list_stay_labelled(tmp_path: Path) -> None:
    path = write_cases(tmp_path)
    manifest = json.loads(path.read_text())
    manifest["cases"] = manifest["cases"][5::-1] + manifest["cases"][6:]
    path.write_text(json.dumps(manifest))
    listed = prepare(Manifest.load(path), PrepareConfig(spacing=(2.0, 2.0, 2.5)), tmp_path / "store")
    chosen = select(listed, DataConfig(labelled=2, labelled_order="first"))
    assert [c.id for c in chosen.labelled] == ["c04", "c05"]
    assert len(chosen.unlabelled) == 6


def test_quarter_turns_read_what_they_show(store: Store) -> None:
    turning = sampler(store, augment=STILL.model_copy(update={"rotate90": True}), patch=(8, 6, 12), foreground=0.0)
    patches = [turning.patch("labelled", i) for i in range(24)]
    assert {p.draw.quarters for p in patches} == {0, 1, 2, 3}
    for p in patches:
        assert p.image.shape[1:] == ((8, 12, 6) if p.draw.quarters % 2 else (8, 6, 12))
    batch = collate(patches, patch_ZYX=(8, 6, 12), views=Views(), num_labelled=24, device=torch.device("cpu"))
    assert batch.x["weak"].shape == (24, 1, 8, 6, 12)
    assert batch.codes.shape == (24, 8, 6, 12)


def test_folds_cover_train_and_validation_once(store: Store) -> None:
    held_out = [[c.id for c in select(store, DataConfig(fold=f)).validation] for f in range(5)]
    assert sorted(chain(*held_out)) == [f"c{i:02d}" for i in range(10)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(rois=("livr",)), "'livr' is not in the store; did you mean 'liver'"),
        (DataConfig(labelled=("c10",)), "'c10' belongs to the test split"),
        (DataConfig(labelled=("c99",)), r"'c99' is not in .*manifest\.store"),
        (DataConfig(labelled=7), "expected 1 to 6 cases"),
        (DataConfig(labelled=1), "none of the 1 cases that stay labelled annotates '(liver|spleen)'"),
        (DataConfig(annotate={"Z": ("liver",)}), "no training case of site 'Z'"),
        (DataConfig(annotate={"A": (), "B": ()}), "no annotated training case"),
    ],
)
def test_selection_mistakes_are_named(store: Store, config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(store, config)


def same(a: Patch, b: Patch) -> bool:
    return a.case == b.case and a.key == b.key and a.draw == b.draw and np.array_equal(a.image, b.image)


def test_a_patch_is_a_function_of_seed_and_position(store: Store) -> None:
    one, two, other = sampler(store), sampler(store), sampler(store, seed=1)
    assert all(same(one.patch("labelled", i), two.patch("labelled", i)) for i in (0, 5, 77))
    assert not same(one.patch("labelled", 5), other.patch("labelled", 5))
    assert one.patch("labelled", 3).key != one.patch("unlabelled", 3).key


def test_each_pass_of_a_stream_meets_every_case_once(store: Store) -> None:
    sampled = sampler(store)
    for lap in range(2):
        labelled = {sampled.patch("labelled", 6 * lap + i).case for i in range(6)}
        assert labelled == {f"c{i:02d}" for i in range(6)}
    assert {sampled.patch("unlabelled", i).case for i in range(2)} == {"c06", "c07"}


def test_centred_patches_hold_an_annotated_roi_and_only_those(store: Store) -> None:
    small = sampler(store, patch=(8, 8, 8))
    seen: Counter[str] = Counter()
    for i in range(60):
        patch = small.patch("labelled", i)
        inside = patch.codes[patch.codes != OUTSIDE] - 1
        found = {ROIS[r] for r in np.flatnonzero(patch.table[np.unique(inside)].any(0)) if patch.known[r]}
        assert found, patch.case
        seen.update(found)
    assert min(seen[roi] for roi in ROIS) >= 10


def test_a_volume_smaller_than_the_patch_lies_in_its_middle_and_the_rest_is_invalid(store: Store) -> None:
    large = sampler(store, patch=(32, 32, 32))
    batch = collate(
        [large.patch("labelled", 0)], patch_ZYX=(32, 32, 32), views=Views(), num_labelled=1, device=torch.device("cpu")
    )
    z, y, x = store.case("c00").grid.shape_ZYX
    assert int(batch.valid.sum()) == z * y * x
    filled = torch.nonzero(batch.valid[0])
    assert filled.min(0).values.tolist() == [(32 - z + 1) // 2, (32 - y + 1) // 2, (32 - x + 1) // 2]
    assert float(batch.x["weak"][0, 0][~batch.valid[0]].abs().max()) == 0


def test_codes_follow_the_image_through_rotation_zoom_and_flips(store: Store) -> None:
    moving = AugmentConfig(
        rotation_degrees=40, rotation_probability=1, zoom_probability=1, intensity=False, strong=False
    )
    chosen = sampler(store, augment=moving)
    patches = [chosen.patch("labelled", i) for i in range(12)]
    batch = collate(patches, patch_ZYX=PATCH, views=Views(), num_labelled=12, device=torch.device("cpu"))
    y = batch.y().bool() & batch.valid[:, None]
    for row, patch in enumerate(patches):
        spleen = y[row, 2]
        if patch.known[2] and spleen.sum() > 20:  # the spleen is the brightest structure
            outside = batch.valid[row] & ~spleen
            assert batch.x["weak"][row, 0][spleen].median() > batch.x["weak"][row, 0][outside].quantile(0.9)


def test_views_share_one_grid_and_the_batch_is_typed(store: Store) -> None:
    chosen = sampler(store, augment=AugmentConfig())
    patches = [chosen.patch("labelled", 0), chosen.patch("unlabelled", 0)]
    batch = collate(patches, patch_ZYX=PATCH, views=BOTH, num_labelled=1, device=torch.device("cpu"))
    assert batch.x["weak"].shape == batch.x["strong"].shape == (2, 1, *PATCH)
    assert batch.known.tolist()[1] == [False, False, False]
    assert batch.table.shape[2] == 3
    assert int(batch.codes.max()) < batch.table.shape[1]


def test_ranks_share_out_the_rows_of_one_process(store: Store) -> None:
    whole = Loader(sampler(store), batch=4, num_labelled=2)
    ranks = [Loader(sampler(store), batch=4, num_labelled=2, rank=r, world=2) for r in range(2)]
    assert sorted(chain(*(loader.rows(7) for loader in ranks))) == sorted(whole.rows(7))
    assert [stream for stream, _ in ranks[1].rows(7)] == ["labelled", "unlabelled"]
    for loader in (whole, *ranks):
        loader.close()


def test_the_loader_starts_anywhere(store: Store) -> None:
    loader = Loader(sampler(store), batch=2, num_labelled=1)
    straight = list(loader.steps(0, 6))
    resumed = list(loader.steps(4, 6))
    loader.close()
    assert all(same(a, b) for a, b in zip(chain(*straight[4:]), chain(*resumed), strict=True))
