"""Looking up how many annotations lie before a sample, beside numpy's binary search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgray.shards import annotations
from ecgray.shards.annotations import Ascending
from ecgray.shards.maps import Together


@settings(max_examples=200)
@given(data=st.data(), lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=4), step=st.sampled_from([1, 3]))
def test_ascending_samples_beside_a_binary_search(data, lengths, step):
    """Of every sample and the two beyond the last, for values that repeat, crowd together, or are none; the arrays of
    the shards lie in any order in one memory."""
    samples = np.array(lengths, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "_MOST_STRETCHES", data.draw(st.sampled_from([4, 1 << 24])))
        places = Ascending(samples, step)
    values, base, memory = [], np.zeros(len(lengths), np.int64), [np.full(7, -9)]
    for shard in data.draw(st.permutations(range(len(lengths)))):
        end = data.draw(st.sampled_from([lengths[shard], min(lengths[shard], 3)]))
        values.append((shard, np.array(sorted(data.draw(st.lists(st.integers(0, end - 1), max_size=60))), np.int64)))
        places.learn(*values[-1])
        base[shard] = sum(map(len, memory))
        memory.append(np.stack([values[-1][1]] + [np.full(len(values[-1][1]), 10**6)] * (step - 1), axis=1).ravel())
    held = Together(np.concatenate([*memory, [0]]), base, [])
    asked = [np.arange(length + 2) for length in lengths]
    shard = np.repeat(np.arange(len(lengths)), samples + 2)
    found = places.before(held, shard, np.concatenate(asked))
    expected = [np.searchsorted(own, asked[number]) for number, own in sorted(values, key=lambda pair: pair[0])]
    np.testing.assert_array_equal(found, np.concatenate(expected))
