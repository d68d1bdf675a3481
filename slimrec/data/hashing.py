"""Stable hashes of row numbers and strings: every random choice over rows comes from here, the same on any machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STRING_KEY = "slimrec-strings0"  # 16 characters, never to change: datasets and models depend on it
_MASK = (1 << 64) - 1


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele, Lea, Flood 2014), elementwise: uint64 (n,) -> uint64 (n,)."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_numbers(numbers: np.ndarray, *seed: int) -> np.ndarray:
    """uint64 (n,) hashes of integers (n,) under a seed of one or more integers."""
    key = np.zeros(1, np.uint64)
    for part in seed:
        key = splitmix64(key ^ np.uint64(part & _MASK))
    return splitmix64(splitmix64(np.asarray(numbers).astype(np.uint64) ^ key))


def hash_strings(values: Sequence[str]) -> np.ndarray:
    """uint64 (n,) keyed SipHash of strings (the one of pandas)."""
    from pandas.util import hash_array

    return hash_array(np.array(values, dtype=object), hash_key=_STRING_KEY, categorize=False)


def permutation(count: int, *seed: int) -> np.ndarray:
    """A permutation of 0..count-1 (int64) that depends on the seed and on nothing else."""
    return np.argsort(hash_numbers(np.arange(count), *seed), kind="stable")


def permuted(positions: np.ndarray, count: int, *seed: int) -> np.ndarray:
    """Where a pseudo-random permutation of 0..count-1 sends `positions` (n,): int64 (n,), without a table of it.

    Four Feistel rounds over the next power of four, walked on until inside (Black and Rogaway 2002).
    """
    bits = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    out = np.asarray(positions).astype(np.uint64)
    left = np.arange(len(out))  # of the positions, those that are not yet inside
    while len(left):
        high, low = out[left] >> bits, out[left] & mask
        for turn in range(4):
            high, low = low, high ^ (hash_numbers(low, *seed, turn) & mask)
        out[left] = (high << bits) | low
        left = left[out[left] >= count]
    return out.astype(np.int64)


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Hashes (n,) as float64 in [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
