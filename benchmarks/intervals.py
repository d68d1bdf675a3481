"""How much of a mean is the chance of what it was taken over, seeds or logs."""

from collections.abc import Sequence
from statistics import mean, stdev

from scipy.stats import t as student


def half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of two or more values, by Student's t."""
    return float(student.ppf(0.975, len(values) - 1)) * error(values)


def error(values: Sequence[float]) -> float:
    """The standard error of the mean of two or more values."""
    return stdev(values) / len(values) ** 0.5


def interval(differences: Sequence[float]) -> str:
    """Where the mean difference lies at 95 %, were they drawn anew; nothing is known from one."""
    if len(differences) < 2:
        return ""
    return f" [{mean(differences) - half(differences):+.4f}, {mean(differences) + half(differences):+.4f}]"


def gain(differences: Sequence[float]) -> str:
    """The mean of paired differences with its standard error, where there are several."""
    doubt = f" ± {error(differences):.4f}" if len(differences) > 1 else ""
    return f"{mean(differences):+.4f}{doubt}"
