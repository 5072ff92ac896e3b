"""Samples shared out so that nobody has much more to compute than the others."""

from __future__ import annotations

import heapq

import numpy as np

SWAPS_PER_SHARE = 4
"""Improvements tried at most, per share: more change little, and each costs some 50 microseconds."""


def share_evenly(samples: np.ndarray, lengths: np.ndarray, shares: int) -> list[np.ndarray]:
    """Share samples out so that the sums of their lengths are about equal, the heaviest share first.

    The numbers of samples differ by at most 1, because each sample's video costs the same, whatever its text.
    Longest first, each to the lightest share that has room (R. L. Graham, Bounds on multiprocessing timing
    anomalies, 1969); then samples of the heaviest share are exchanged for shorter ones while that helps.

    Args:
        samples: [n]. lengths: [n], not negative.
        shares: how many.

    Returns:
        `shares` arrays; those without samples are last.
    """
    owners = _longest_first(lengths, shares)
    _exchange(owners, lengths, shares)
    heaviest_first = np.argsort(-np.bincount(owners, lengths, shares), kind="stable")
    return [samples[owners == share] for share in heaviest_first]


def _longest_first(lengths: np.ndarray, shares: int) -> np.ndarray:
    """The share of each sample, int64 [n]."""
    full, extra = divmod(len(lengths), shares)
    lightest = [(0, share) for share in range(shares)]
    counts = [0] * shares
    owners = np.empty(len(lengths), dtype=np.int64)
    for index in np.argsort(-lengths, kind="stable").tolist():
        load, share = heapq.heappop(lightest)
        # Shares may have one sample more than the others until `extra` of them do.
        while counts[share] == full and not extra:
            load, share = heapq.heappop(lightest)
        owners[index] = share
        counts[share] += 1
        extra -= counts[share] > full
        if counts[share] <= full:
            heapq.heappush(lightest, (load + int(lengths[index]), share))
    return owners


def _exchange(owners: np.ndarray, lengths: np.ndarray, shares: int) -> None:
    """Swap a sample of the heaviest share for one of another, in place, as long as the two become lighter."""
    loads = np.bincount(owners, lengths, shares)
    for _ in range(SWAPS_PER_SHARE * shares):
        heaviest = int(loads.argmax())
        own, other = np.flatnonzero(owners == heaviest), np.flatnonzero(owners != heaviest)
        if not len(own) or not len(other):
            return
        moved = lengths[own][:, None] - lengths[other]
        after = np.maximum(loads[heaviest] - moved, loads[owners[other]] + moved)
        mine, theirs = np.unravel_index(after.argmin(), after.shape)
        if after[mine, theirs] >= loads[heaviest]:
            return
        partner = owners[other[theirs]]
        loads[heaviest] -= moved[mine, theirs]
        loads[partner] += moved[mine, theirs]
        owners[own[mine]], owners[other[theirs]] = partner, heaviest
