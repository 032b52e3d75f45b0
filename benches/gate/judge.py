"""What a series of paired measurements says about a slowdown.

A *trial* starts both revisions afresh and measures them in turns; each turn gives the logarithm of a ratio, candidate to
base. A trial counts as one number, the median of its turns: turns of one trial share what a start leaves to chance (where
memory lies, how a graph was linked, which node leads), so only trials are independent. The mean of the trials and
Student's interval around it are the estimate.

A slowdown is *found* when the whole 95 % interval lies above zero and its centre beyond the limit. Trials go on until
the interval of one measure lies beyond the limit or those of all on one side of it, or until there are as many as may be.
"""

import math
import statistics
from dataclasses import dataclass
from enum import Enum

# Quantiles of Student's t at 0.975 by degrees of freedom, from 1; beyond the list the normal's, widened a little.
T_975 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
         2.110, 2.101, 2.093, 2.086]
T_975_BEYOND = 2.09
# No trial is sharper than this: a few that happen to agree say little about how far trials lie apart.
LEAST_DEVIATION = 0.01


class Verdict(Enum):
    """What is known about one measure."""

    FINE = "ok"
    SLOWER = "SLOWER"
    # No slowdown was found, but the limit lies within the interval.
    UNCLEAR = "ok, not sharp"
    # No slowdown was found, but one of twice the limit cannot be excluded.
    TOO_NOISY = "TOO NOISY"


@dataclass(frozen=True)
class Estimate:
    """A relative change, 0.05 for five percent slower, with its 95 % interval."""

    change: float
    low: float
    high: float
    trials: int


def trial_value(turns):
    """The logarithm of the ratio that a trial stands for. `turns` holds pairs (base, candidate)."""
    if not turns:
        raise ValueError("a trial without turns")
    return statistics.median(math.log(candidate / base) for base, candidate in turns)


def estimate(values):
    """The estimate of independent trials, each a logarithm of a ratio. One trial has an interval without end."""
    centre = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(math.expm1(centre), -1.0, math.inf, len(values))
    freedom = len(values) - 1
    t = T_975[freedom - 1] if freedom <= len(T_975) else T_975_BEYOND
    half = t * max(statistics.stdev(values), LEAST_DEVIATION) / math.sqrt(len(values))
    return Estimate(math.expm1(centre), math.expm1(centre - half), math.expm1(centre + half), len(values))


def is_settled(found, limit):
    """Whether another trial could not change what is said: the interval lies on one side of the limit."""
    return found.high < limit or found.low > limit


def is_decided(found, limit):
    """Whether the verdict on all measures together is known: one is slower beyond doubt, or none is open."""
    found = list(found)
    return any(one.low > limit for one in found) or all(is_settled(one, limit) for one in found)


def judge(found, limit):
    """The verdict when no trial follows."""
    if found.low > 0 and found.change > limit:
        return Verdict.SLOWER
    if found.high < limit:
        return Verdict.FINE
    if found.high >= 2 * limit:
        return Verdict.TOO_NOISY
    return Verdict.UNCLEAR
