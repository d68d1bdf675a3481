"""Probes: copies of real fields with their rows shuffled, scored in the search beside them; what they score is chance."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Collection, Mapping

from slimrec.errors import ConfigError
from slimrec.schema import Schema

_MISSING = "a false discovery rate needs probes in the search: set `probes` in the section pretrain"
_NAME = re.compile(r"probe(\d+):(.+)", re.DOTALL)  # which of the shuffles, and of which field


def with_probes(schema: Schema, per_field: float, seed: int) -> Schema:
    """The schema with so many probes a field beside its fields; below 1 only that share of the fields has one.

    A probe has kind, width, vocabulary and statistics of its field. Fields are taken in a random order.
    """
    clash = [name for name in schema.names if is_probe(name)]
    if clash:
        raise ConfigError(f"field '{clash[0]}' is named like a probe; give it another name, or search without probes")
    count = max(1, round(per_field * len(schema.fields)))
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
    """By real field, the share of meaningless fields to expect among all that stand out as much.

    Where every field has M probes of its own, by multiple knockoffs (Gimenez and Zou 2019, arXiv 1810.11378): a
    meaningless field is as likely as each of its probes to be the best of them, so fields that lose to a probe by as
    much tell how many win by chance; at best 1 / (M * number of fields that win). A field is measured by its own
    probes, because what chance scores depends on cardinality and width. Exact for fields that depend neither on the
    label nor on other fields. Where only some fields have probes, from `p_values`: Benjamini and Hochberg 1995, times
    the share of meaningless fields that Storey, Taylor and Siegmund 2004 estimate (at 1/2).
    """
    own: dict[str, list[float]] = {name: [] for name in scores if not is_probe(name)}
    _null(scores)
    for name in filter(is_probe, scores):
        own[source_of(name)[1]].append(scores[name])
    copies = min(map(len, own.values()))
    return _by_own_probes(scores, own) if copies else _by_all_probes(p_values(scores))


def _by_own_probes(scores: Mapping[str, float], own: Mapping[str, list[float]]) -> dict[str, float]:
    wins = {name: scores[name] > max(probes) for name, probes in own.items()}
    lead = {}
    for name, probes in own.items():
        best, *others = sorted([scores[name], *probes], reverse=True)
        lead[name] = best - statistics.median(others)
    copies, q, least = min(map(len, own.values())), {}, 1.0
    for name in sorted(own, key=lambda name: (lead[name], name)):  # from the smallest lead up
        ahead = [wins[other] for other in own if lead[other] >= lead[name]]
        least = min(least, (1 + ahead.count(False)) / copies / max(1, ahead.count(True)))
        q[name] = least if wins[name] else 1.0
    return {name: q[name] for name in own}


def _by_all_probes(p: Mapping[str, float]) -> dict[str, float]:
    meaningless = min(1.0, (1 + sum(value > 0.5 for value in p.values())) / (0.5 * len(p)))
    q, least = {}, 1.0
    ranked = sorted(p, key=lambda name: (p[name], name))
    for rank in range(len(ranked), 0, -1):
        least = min(least, p[ranked[rank - 1]] * len(p) / rank)
        q[ranked[rank - 1]] = meaningless * least
    return q


def false_discovery_share(scores: Mapping[str, float], kept: Collection[str]) -> float:
    """The share of meaningless fields to expect among those kept, where fields were kept by score under another budget.

    A meaningless field scores like its probes, so of all fields at most (number of fields) * (p-value of the weakest
    kept) are expected to reach that score by chance (Benjamini and Hochberg 1995).
    """
    p = p_values(scores)
    return min(1.0, len(p) * max(p[name] for name in kept) / len(kept)) if kept else 0.0


def discoveries(scores: Mapping[str, float], rate: float) -> set[str]:
    """Real fields that beat the probes, with at most the share `rate` of meaningless ones among them in expectation."""
    return {name for name, value in q_values(scores).items() if value <= rate}


def check_rate(rate: float, probes: int, fields: int) -> None:
    """ConfigError where so many probes can never show such a rate over so many fields: no q-value is as small."""
    if not probes:
        raise ConfigError(_MISSING)
    counted = probes // fields * fields or probes  # copies that not every field has say no more
    if counted * rate < 1 - 1e-9:
        raise ConfigError(
            f"{probes / fields:g} probes a field over {fields} fields cannot show a false discovery rate of {rate:g}: "
            f"set pretrain.probes to {math.ceil(1 / rate / fields - 1e-9)} or more, or allow a higher rate"
        )


def _null(scores: Mapping[str, float]) -> list[float]:
    null = [score for name, score in scores.items() if is_probe(name)]
    if not null:
        raise ConfigError(_MISSING)
    return null
