"""Counts of labels by category, and which row names a cluster."""

from __future__ import annotations

import torch

from lightning_avb.evaluation import ClusterCounts


def test_counts_by_hand():
    """Three categories, labels 0 and 1; row 5 has no label, and nobody is likely to be of the third category."""
    share = [[0.7, 0.2, 0.1], [0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]]
    clusters = ClusterCounts(3, 2)
    clusters.update(torch.tensor(share).log(), torch.tensor([0, 1, 0, 1, 0, -1]))
    counts, label = clusters.compute()
    assert counts.tolist() == [[2, 1], [1, 1], [0, 0]]
    assert label.tolist() == [1, 1, 0]


def test_the_most_confident_row_is_found_where_probabilities_are_all_one():
    logits = torch.tensor([[40.0, 0.0, 0.0], [50.0, 0.0, 0.0], [60.0, 30.0, 0.0]])
    assert torch.equal(logits.softmax(-1)[:, 0], torch.ones(3))
    clusters = ClusterCounts(3, 3)
    clusters.update(logits, torch.arange(3))
    assert clusters.compute()[1][0] == 1


def test_counts_depend_on_neither_batches_nor_processes():
    logits, y = torch.randn(60, 5), torch.arange(60) % 4 - 1
    whole, merged = ClusterCounts(5, 3), ClusterCounts(5, 3)
    whole.update(logits, y)
    processes = [ClusterCounts(5, 3) for _ in range(3)]
    for rank, clusters in enumerate(processes):
        for rows in torch.arange(rank, 60, 3).split(7):
            clusters.update(logits[rows], y[rows])
        merged.merge_state(clusters)
    states = ("counts", "most_confident")
    gathered = {state: [getattr(clusters, state).clone() for clusters in processes] for state in states}
    of = lambda state, group=None: gathered["counts" if state.dtype == torch.int64 else "most_confident"]
    processes[1].sync(dist_sync_fn=of, distributed_available=lambda: True)
    for clusters in (merged, processes[1]):
        for state in states:
            assert torch.equal(getattr(clusters, state), getattr(whole, state))
    assert whole.counts.sum() == 45 and len(whole.compute()[1].unique()) > 1
