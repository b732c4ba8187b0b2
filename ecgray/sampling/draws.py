"""Counter-based random numbers: a generator for each thing that is drawn, found without drawing what came before."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Draw(IntEnum):
    """What is drawn; part of the generator's address, so that no two kinds share numbers."""

    SPLIT = 1
    PASS = 2
    FRAMES = 3
    NEGATIVES = 4
    VALIDATION = 5
    VALIDATION_NEGATIVES = 6


def generator(seed: int, draw: Draw, first: int = 0, second: int = 0) -> np.random.Generator:
    """Philox at the address (seed, draw, first, second), each below 2**64.

    Key and upper counter words are the address itself and the lowest counter word counts, so that two addresses never
    overlap before 2**64 blocks have been drawn.
    """
    key = np.array([seed, draw], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, first, second], np.uint64)))
