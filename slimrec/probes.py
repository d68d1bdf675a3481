"""Probes: copies of real fields with their rows shuffled, scored in the search beside them; what they score is chance."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping

from slimrec.errors import ConfigError
from slimrec.schema import Schema

_NAME = re.compile(r"probe(\d+):(.+)", re.DOTALL)  # which of the shuffles, and of which field


def with_probes(schema: Schema, share: float, seed: int) -> Schema:
    """The schema with `share` (up to 1: of its fields; above: a number of) probes beside its fields.

    A probe has kind, width, vocabulary and statistics of its field. Fields are taken in a random order, and again from
    the first one when there are more probes than fields.
    """
    clash = [name for name in schema.names if is_probe(name)]
    if clash:
        raise ConfigError(f"field '{clash[0]}' is named like a probe; give it another name, or search without probes")
    count = max(1, round(share * len(schema.fields))) if 0 < share <= 1 else int(share)
    order = list(schema.names)
    random.Random(seed).shuffle(order)
    sources = [(i // len(order), order[i % len(order)]) for i in range(count)]
    probes = [schema[name].model_copy(update={"name": f"probe{turn}:{name}"}) for turn, name in sources]
    fields = sorted((*schema.fields, *probes), key=lambda field: field.name)
    return schema.model_copy(update={"fields": tuple(fields)})


def is_probe(name: str) -> bool:
    """Whether a field of a search is a probe."""
    return _NAME.fullmatch(name) is not None


def source_of(name: str) -> tuple[int, str]:
    """Which shuffle of which field a probe is; (0, name) of a real field is itself."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2]) if found else (0, name)


def p_values(scores: Mapping[str, float]) -> dict[str, float]:
    """By real field, how likely a field without meaning scores as high: (1 + probes that do) / (1 + probes)."""
    null = _null(scores)
    return {
        name: (1 + sum(other >= score for other in null)) / (1 + len(null))
        for name, score in scores.items()
        if not is_probe(name)
    }


def q_values(scores: Mapping[str, float]) -> dict[str, float]:
    """By real field, the expected share of meaningless fields among all that score at least as high.

    Benjamini and Hochberg 1995 on the p-values, times the share of meaningless fields as Storey, Taylor and Siegmund
    2004 estimate it (at 1/2). Valid for p-values that share one null sample (Bates et al. 2023, arXiv 2104.08279).
    """
    p = p_values(scores)
    meaningless = min(1.0, (1 + sum(value > 0.5 for value in p.values())) / (0.5 * len(p)))
    q, least = {}, 1.0
    ranked = sorted(p, key=lambda name: (p[name], name))
    for rank in range(len(ranked), 0, -1):
        least = min(least, meaningless * p[ranked[rank - 1]] * len(p) / rank)
        q[ranked[rank - 1]] = least
    return q


def false_discovery_share(scores: Mapping[str, float], kept: Collection[str]) -> float:
    """The estimated share of meaningless fields among those kept: the q-value of the weakest of them."""
    q = q_values(scores)
    return max((q[name] for name in kept), default=0.0)


def discoveries(scores: Mapping[str, float], rate: float) -> set[str]:
    """Real fields that beat the probes, with at most the share `rate` of meaningless ones among them in expectation."""
    return {name for name, value in q_values(scores).items() if value <= rate}


def _null(scores: Mapping[str, float]) -> list[float]:
    null = [score for name, score in scores.items() if is_probe(name)]
    if not null:
        raise ConfigError("a false discovery rate needs probes in the search: set `probes` in the section pretrain")
    return null
