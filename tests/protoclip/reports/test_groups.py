"""Clusters numbered like classes, and groups drawn whole."""

from itertools import permutations

import pytest
import torch

from protoclip.reports.groups import matched_clusters, whole_groups


def test_renamed_classes_are_found_again() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert matched_clusters(torch.tensor([2, 2, 0, 0, 1, 1]), labels).equal(labels)


def test_no_renaming_agrees_with_more_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    clusters, labels = torch.randint(4, (2, 40), generator=generator)
    agreeing = [int((torch.tensor(names)[clusters] == labels).sum()) for names in permutations(range(4))]
    assert int((matched_clusters(clusters, labels) == labels).sum()) == max(agreeing)


def test_clusters_beyond_the_classes_keep_numbers_of_their_own() -> None:
    matched = matched_clusters(torch.tensor([3, 3, 1, 0, 2]), torch.tensor([0, 0, 1, 0, 1]))
    assert matched[:2].tolist() == [0, 0]
    assert {*matched.tolist()} == {0, 1, 2, 3}


def test_clusters_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same samples"):
        matched_clusters(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="leave out samples without a class"):
        matched_clusters(torch.zeros(2, dtype=torch.int64), torch.tensor([0, -1]))


def test_groups_are_drawn_whole() -> None:
    groups = torch.arange(10).repeat(3)
    groups[groups == 4] = -1
    drawn = whole_groups(groups, 9)
    assert drawn.tolist() == sorted(drawn.tolist())
    assert groups[drawn].bincount().sort().values[-4:].tolist() == [0, 3, 3, 3]
    assert not drawn.equal(whole_groups(groups, 9, seed=1))


def test_all_samples_with_a_group_are_drawn_where_there_are_too_few() -> None:
    assert whole_groups(torch.tensor([1, -2, 0]), 5).tolist() == [0, 2]
