"""Differences that are paired over seeds, and the share of clips that are right: each with its 95 % interval."""

import math
import statistics


def t_probability(t: float, df: int) -> float:
    """P(|T| < t) of Student's t distribution with `df` degrees of freedom, t ≥ 0, df ≥ 1.

    For whole degrees of freedom the integral is a finite sum in the angle atan(t / sqrt(df)).
    """
    angle = math.atan2(t, math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    if df % 2:
        terms, total = cosine, 0.0
        for k in range(1, df - 1, 2):  # cos + 2/3 cos³ + 2·4/(3·5) cos⁵ + ...
            total += terms
            terms *= cosine**2 * (k + 1) / (k + 2)
        return 2 / math.pi * (angle + sine * total)
    terms, total = 1.0, 0.0
    for k in range(0, df, 2):  # 1 + 1/2 cos² + 1·3/(2·4) cos⁴ + ...
        total += terms
        terms *= cosine**2 * (k + 1) / (k + 2)
    return sine * total


def t_quantile(df: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = `level`, by bisection; 12.7 for df = 1, 4.30 for df = 2."""
    low, high = 0.0, 1.0
    while t_probability(high, df) < level:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_probability(middle, df) < level else (low, middle)
    return high


def compare(values: dict[int, float], reference: dict[int, float]) -> dict:
    """The difference `values` - `reference` (both by seed), paired over the seeds that both have.

    Returns dict(seeds, differences, mean, low, high, decided). low and high bound the 95 % interval of the mean. The
    difference is decided only if that interval excludes 0. With fewer than two seeds there is no interval.
    """
    seeds = [seed for seed in values if seed in reference]
    differences = [values[seed] - reference[seed] for seed in seeds]
    result = dict(seeds=seeds, differences=differences, mean=None, low=None, high=None, decided=False)
    if differences:
        result["mean"] = statistics.fmean(differences)
    if len(differences) > 1:
        half = t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
        result["low"], result["high"] = result["mean"] - half, result["mean"] + half
        result["decided"] = not result["low"] <= 0 <= result["high"]
    return result


def mean_and_std(values: list[float]) -> tuple[float | None, float | None]:
    """The mean and the standard deviation (n - 1); None for what too few values do not have."""
    return (statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None)


def wilson(share: float, clips: int, z: float = 1.96) -> tuple[float, float]:
    """The ends of Wilson's interval for the share of all clips, from that of some; z = 1.96 for 95 %."""
    middle, half = share + z**2 / (2 * clips), z * math.sqrt(share * (1 - share) / clips + z**2 / (4 * clips**2))
    return (middle - half) / (1 + z**2 / clips), (middle + half) / (1 + z**2 / clips)
