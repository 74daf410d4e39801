"""Terms of methods, worked out beside the code: numpy and plain arithmetic on the formulas of the papers.

Networks are replaced by what they say: maps and logits of two rows of four voxels, the last of which is padding.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gleanseg.engine.terms import combine
from gleanseg.methods.cct import CCT
from gleanseg.methods.dmd import DMD
from gleanseg.methods.mlrpl import MLRPL
from gleanseg.methods.ss_net import SSNet
from gleanseg.methods.uamt import UAMT
from gleanseg.methods.urpc import URPC
from gleanseg.parts.levels import levels
from gleanseg.types import Batch, Progress
from support.batches import NUM_ROIS, make_batch
from support.steps import LATE, made, mean, values

Array = NDArray[np.float64]
VALID = np.array([True, True, True, False])


class Says(nn.Module):
    """A module that does what it is told to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def logit(p: Array) -> Array:
    return np.log(p / (1 - p))


def in_a_row(numbers: Array) -> Tensor:
    """(B, C, X) as maps of one row of voxels."""
    return torch.tensor(numbers, dtype=torch.float32)[:, :, None, None]


def four_voxels(known: list[list[bool]]) -> Batch:
    """One row for each list, with what is known of the three ROIs."""
    rows = len(known)
    return Batch(
        x={"strong": torch.zeros(rows, 1, 1, 1, 4)},
        codes=torch.zeros(rows, 1, 1, 4, dtype=torch.int32),
        table=torch.zeros(rows, 1, NUM_ROIS, dtype=torch.bool),
        known=torch.tensor(known),
        valid=torch.tensor(VALID).expand(rows, 1, 1, 4),
        key=torch.arange(rows),
        spacing_mm=torch.ones(rows, 3),
        num_labelled=1,
    )


def says(network: Any, *passes: Array) -> None:
    """Let a network give these logits, (B, R, X), one after the other."""
    turns = iter(passes)
    network.features = lambda x: (in_a_row(next(turns)),)
    network.score = lambda features, rois: features[0][:, rois]


def reads(head: Any, weight: Array) -> None:
    """Let a head's logits be these combinations, (R, C), of the channels."""
    with torch.no_grad():
        head.classifier.weight.copy_(torch.tensor(weight)[:, :, None, None, None])
        head.classifier.bias.zero_()


def one_of_each(channels: int) -> Array:
    """ROI r is read from channel r."""
    return np.eye(NUM_ROIS, channels)


def random(*shape: int, seed: int) -> Array:
    """Numbers that single precision holds exactly."""
    return np.random.default_rng(seed).integers(-24, 25, shape) / 8.0


@pytest.mark.parametrize(
    ("progress", "squares", "weight"),
    [
        # Bits of the mean: of 0.8 0.722, of 0.75 0.811, of 0.6 0.971. The limit starts at 0.7517 ...
        (Progress(0, 20), [0.45**2, 0.2**2], 0.1 * math.exp(-5)),
        # ... and half-way is 0.75 + 0.25 e^-1.25 = 0.8216.
        (Progress(10, 20), [0.45**2, 0.3**2, 0.2**2], 0.1),
    ],
)
def test_uamt_is_consistent_where_the_mean_of_the_passes_is_sure(
    progress: Progress, squares: list[float], weight: float
) -> None:
    method, batch = made(UAMT, passes=2), four_voxels([[True, True, True], [False, False, True]])
    student, taught, one, other = (np.full((2, NUM_ROIS, 4), 0.5) for _ in range(4))
    student[1, 0], taught[1, 0] = [0.5, 0.5, 0.4, 0.5], [0.95, 0.6, 0.1, 0.9]
    one[1, 0], other[1, 0] = [0.9, 0.9, 0.2, 0.9], [0.7, 0.3, 0.3, 0.9]  # each is sure of the second, the mean is not
    student[1, 1], taught[1, 1] = [0.7, 0.5, 0.5, 0.5], [0.5, 0.9, 0.9, 0.9]
    one[1, 1], other[1, 1] = [0.2, 0.5, 0.5, 0.9], [0.2, 0.5, 0.5, 0.9]
    student[:, 2], one[:, 2], other[:, 2] = 0.9, 0.99, 0.99  # known: it takes no part
    says(method.student, logit(student))
    says(method.teacher, *(logit(p) for p in (taught, one, other)))
    consistency = method(batch, progress)["consistency"]
    assert mean(consistency) == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert consistency.weight == pytest.approx(weight)  # type: ignore[union-attr]


def test_cct_decoders_each_add_a_third_of_their_distance_from_the_main_one() -> None:
    method, batch = made(CCT, lam=0.6), four_voxels([[True, False, True], [False, False, True]])
    maps = [random(2, 4, 4, seed=seed) for seed in range(4)]
    net: Any = method.net
    reads(net.head, one_of_each(4))
    net.encoded, net.decode = lambda x: [x], lambda encoded: [in_a_row(maps[0])]
    for k, said in enumerate(maps[1:]):
        method.decoders[k] = Says(lambda encoded, said=said: [in_a_row(said).requires_grad_()])
    p = [sigmoid(m[:, :NUM_ROIS]) for m in maps]
    unknown = [(0, 1), (1, 0), (1, 1)]
    wanted = [np.mean([((p_k[pair] - p[0][pair])[VALID] ** 2).mean() for pair in unknown]) for p_k in p[1:]]
    agree = {name: term for name, term in method(batch, LATE).items() if name.startswith("agree_")}
    loss, found = combine(agree, world=1, all_reduce=lambda t: t)
    names = ("agree_noise", "agree_dropout", "agree_drop")
    assert [float(found[name]) for name in names] == pytest.approx(wanted, rel=1e-5)
    assert float(loss.detach()) == pytest.approx(0.6 * sum(wanted) / 3, rel=1e-5)


def test_urpc_weighs_distances_from_the_mean_by_how_little_scales_differ() -> None:
    method = made(URPC, dropout=(0.0,))
    batch = four_voxels([[True, False, True], [False, False, True]])
    net: Any = method.net
    coarse, fine = random(2, 8, 2, seed=1), random(2, 4, 4, seed=2)
    reads(net.head, one_of_each(4))
    reads(method.heads[0], one_of_each(8))
    net.encoded, net.decode = lambda x: [x], lambda encoded: [in_a_row(coarse), in_a_row(fine)]
    # Twice as fine: the middles lie a quarter of a coarse voxel from one neighbour, three quarters from the other.
    a, b = coarse[:, :NUM_ROIS, 0], coarse[:, :NUM_ROIS, 1]
    z = [np.stack([a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b], 2), fine[:, :NUM_ROIS]]
    p = [sigmoid(z_s) for z_s in z]
    m = (p[0] + p[1]) / 2
    of_rois = []
    for rows, roi in (([1], 0), ([0, 1], 1)):
        of_scales = []
        m_r = m[rows, roi][:, VALID]
        for p_s in (p_s[rows, roi][:, VALID] for p_s in p):
            doubt = m_r * (np.log(m_r) - np.log(p_s)) + (1 - m_r) * (np.log(1 - m_r) - np.log(1 - p_s))
            rectified = ((m_r - p_s) ** 2 * np.exp(-doubt)).mean() / (np.exp(-doubt).mean() + 1e-8)
            of_scales.append(rectified + doubt.mean())
        of_rois.append(np.mean(of_scales))
    assert values(method, batch)["pyramid"] == pytest.approx(np.mean(of_rois), rel=1e-5)


def test_dmd_is_the_squared_dice_of_softened_predictions() -> None:
    method, batch = made(DMD, temperature=2.0), four_voxels([[True, False, False], [False, False, True]])
    z_a, z_b = random(2, NUM_ROIS, 4, seed=3), random(2, NUM_ROIS, 4, seed=4)
    says(method.a, z_a)
    says(method.b, z_b)
    lost = []
    for roi in range(NUM_ROIS):  # known ones, too, as the paper
        q_a, q_b = (sigmoid(z[:, roi][:, VALID] / 2) for z in (z_a, z_b))
        lost.append(1 - (2 * (q_a * q_b).sum() + 1e-5) / ((q_a**2).sum() + (q_b**2).sum() + 1e-5))
    assert values(method, batch)["distil"] == pytest.approx(np.mean(lost), rel=1e-5)


def of_one_pair(z_i: Array, z_j: Array, f_j: Array) -> tuple[Array, Array]:
    """What decoder i learns of one ROI in one row: weighted cross-entropies, and which voxels count."""
    p_i, p_j = sigmoid(z_i), sigmoid(z_j)
    entropy_i, entropy_j = (-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (p_i, p_j))
    drawn = p_j > 0.5
    reliable = np.zeros(4)
    for inside, p in ((drawn, p_j), (~drawn, 1 - p_j)):
        chosen = f_j[:, inside & VALID]
        likeness = np.zeros(4)
        if chosen.size:
            middle = chosen.mean(1)
            likeness = middle @ f_j / (np.linalg.norm(middle) * np.linalg.norm(f_j, axis=0))
        reliable += (1 - (likeness - p) ** 2) / 2
    cross_entropy = -np.log(np.where(drawn, p_i, 1 - p_i))
    return reliable * cross_entropy, (entropy_i > entropy_j) & VALID


def test_mlrpl_labels_count_where_the_other_is_surer_and_as_much_as_they_are_reliable() -> None:
    method, batch = made(MLRPL), four_voxels([[True, False, False], [False, False, True]])
    net: Any = method.net
    (other,) = method.branches
    f = {"1": np.abs(random(2, 4, 4, seed=5)) + 0.125, "2": np.abs(random(2, 4, 4, seed=6)) + 0.125}
    weight = {"1": random(NUM_ROIS, 4, seed=7) / 3, "2": random(NUM_ROIS, 4, seed=8) / 3}
    reads(net.head, weight["1"])
    reads(other.head, weight["2"])
    net.encoded, net.decode = lambda x: [x], lambda encoded: [in_a_row(f["1"])]
    other.decoder = Says(lambda encoded: [in_a_row(f["2"])])
    z = {i: np.einsum("rc,bcx->brx", weight[i], f[i]) for i in f}
    found = values(method, batch)
    for i, j in (("1", "2"), ("2", "1")):
        pairs = [of_one_pair(z[i][b, r], z[j][b, r], f[j][b]) for b in range(2) for r in range(NUM_ROIS)]
        total = sum(loss[counts].sum() for loss, counts in pairs)
        count = sum(counts.sum() for _, counts in pairs)
        assert 0 < count < 2 * NUM_ROIS * 3
        assert found[f"mutual_{i}"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("released", [False, True])
def test_ss_net_pulls_features_towards_the_memory_of_their_class(released: bool) -> None:
    method, batch = made(SSNet, size=3, width=4, released=released), make_batch()
    batch.x["strong"][:, :, :2] = 5.0  # padding, from which nothing may come
    nn.init.zeros_(method.net.head.classifier.bias)  # type: ignore[union-attr, arg-type]  # so that something is drawn
    with torch.no_grad():
        method.memory.copy_(torch.tensor(random(2 * NUM_ROIS, 3, 4, seed=9)))
        method.memory[0, 2] = 0  # a row that is empty yet,
        method.memory[4] = 0  # and a class of which nothing is remembered
        last, features = levels(method.net, batch.x["strong"])[1:]
        drawn = (method.net.score(features) > 0).flatten(2).numpy()
        f = method.predict(method.project(last[-1].flatten(2).transpose(1, 2)))
        a, b = method.weigh(f).double().sigmoid().numpy(), method.weigh_memory(method.memory).double().sigmoid().numpy()
    f, memory = f.double().numpy(), method.memory.double().numpy()
    known, label, valid = batch.known.numpy(), batch.y().flatten(2).numpy() > 0, batch.valid.flatten(1).numpy()
    apart: dict[bool, list[float]] = {True: [], False: []}
    for row in range(len(known)):
        for roi in range(NUM_ROIS):
            inside = label[row, roi] if known[row, roi] else drawn[row, roi]
            for k, member in ((roi, inside & valid[row]), (NUM_ROIS + roi, ~inside & valid[row])):
                rows = [n for n in range(3) if memory[k, n].any()]
                if not rows or not member.any() or (released and k >= NUM_ROIS):
                    continue
                weights, total = 0.0, 0.0
                for n in rows:
                    m, b_n = memory[k, n], 1.0 if released else b[k, n, k]
                    cosine = f[row, member] @ m / (np.linalg.norm(f[row, member], axis=1) * np.linalg.norm(m))
                    total += float((a[row, member, k] * b_n * (1 - cosine)).sum())
                    weights += float((a[row, member, k] * b_n).sum())
                apart[bool(known[row, roi])].append(total / weights)
    found = values(method, batch)
    assert len(apart[True]) > 2
    assert len(apart[False]) > 2
    assert found["contrast_known"] == pytest.approx(np.mean(apart[True]), rel=1e-5)
    assert found["contrast_unknown"] == pytest.approx(np.mean(apart[False]), rel=1e-5)
