"""Looking up how many annotations lie before a sample, beside numpy's binary search."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgray.shards.annotations import Places


@settings(max_examples=200)
@given(data=st.data(), samples=st.integers(1, 5000), crowded=st.booleans())
def test_places_beside_a_binary_search(data, samples, crowded):
    """Of every sample and the two beyond the last, for values that repeat, crowd together, or are none."""
    end = min(samples, 3) if crowded else samples
    values = np.array(sorted(data.draw(st.lists(st.integers(0, end - 1), max_size=60))), np.int64)
    asked = np.arange(samples + 2)
    np.testing.assert_array_equal(Places(values, samples).before(asked), np.searchsorted(values, asked))
