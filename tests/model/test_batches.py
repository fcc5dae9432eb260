"""Batches by length, by hand."""

from model.batches import length_sorted_batches


def test_every_row_once_by_length_and_then_by_number():
    lengths = [5, 1, 5, 3, 1]
    assert length_sorted_batches(lengths, 2) == [[1, 4], [3, 0], [2]]
    assert length_sorted_batches(lengths, 2, longest_first=True) == [[0, 2], [3, 1], [4]]
    assert length_sorted_batches([], 2) == []
