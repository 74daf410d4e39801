import torch

from gleanseg.parts.memory import best_rows, keep_best, push

FEATURES = torch.arange(1.0, 7.0).reshape(2, 3, 1)  # two cases of three voxels
SCORE = torch.tensor([[[0.1, 0.9, 0.5]], [[0.8, 0.2, 0.95]]])
ALL = torch.ones(2, 1, 3, dtype=torch.bool)


def test_the_best_of_all_cases_are_offered_first() -> None:
    found = best_rows(FEATURES, SCORE, ALL, 2)
    assert found.shape == (2, 1, 2)
    torch.testing.assert_close(found[:, 0], torch.tensor([[6.0, 0.95], [2.0, 0.9]]))


def test_who_was_not_chosen_is_not_offered() -> None:
    chosen = ALL.clone()
    chosen[1] = False
    chosen[0, 0, 2] = False
    found = best_rows(FEATURES, SCORE, chosen, 8)
    assert found.shape == (8, 1, 2)
    torch.testing.assert_close(found[:2, 0], torch.tensor([[2.0, 0.9], [1.0, 0.1]]))
    assert not found[2:].any()


def test_ranks_keep_what_one_process_would() -> None:
    whole, joined = torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)
    keep_best(whole, best_rows(FEATURES, SCORE, ALL, 2))
    of_ranks = [best_rows(FEATURES[i : i + 1], SCORE[i : i + 1], ALL[:1], 2) for i in (1, 0)]
    keep_best(joined, torch.cat(of_ranks))
    assert whole.flatten().tolist() == joined.flatten().tolist() == [6.0, 2.0]


def test_a_class_without_an_offer_keeps_its_memory() -> None:
    memory = torch.full((2, 2, 1), 7.0)
    offered = torch.zeros(2, 2, 2)
    offered[0, 1] = torch.tensor([4.0, 0.3])
    keep_best(memory, offered)
    assert memory[:, :, 0].tolist() == [[7.0, 7.0], [4.0, 0.0]]


def test_the_oldest_fall_out_and_empty_rows_lie_behind() -> None:
    queue = torch.tensor([[3.0, 2.0, 1.0], [5.0, 0.0, 0.0]])[..., None]
    rows = torch.tensor([[4.0, 0.0], [0.0, 6.0]])[..., None]
    push(queue, rows)
    assert queue[..., 0].tolist() == [[4.0, 3.0, 2.0], [6.0, 5.0, 0.0]]
