"""Errors by exit class: what a platform may retry and what it must not (the process exits with `exit_code`)."""

import difflib
from collections.abc import Iterable


class SlimrecError(Exception):
    """Base of all errors meant for a person: one sentence saying what came, what is allowed, what to do."""

    exit_code = 1


class InputError(SlimrecError):
    """The data is bad: retrying cannot help, the source has to change."""

    exit_code = 10


class ConfigError(SlimrecError):
    """The recipe is bad: retrying cannot help, the recipe has to change."""

    exit_code = 20


class TransientError(SlimrecError):
    """The surroundings failed (network, disk, tracking server): the same step may be run again."""

    exit_code = 30


class Preempted(SlimrecError):
    """The step was asked to stop and left a checkpoint: run it again to resume."""

    exit_code = 40


class ConflictError(SlimrecError):
    """Somebody else changed what this step was judged against: judge again."""

    exit_code = 50


class SecurityError(SlimrecError):
    """An artifact is not what its manifest says, or asks for something that is never allowed."""

    exit_code = 60


BY_EXIT_CODE = {
    kind.exit_code: kind
    for kind in (SlimrecError, InputError, ConfigError, TransientError, Preempted, ConflictError, SecurityError)
}
PERMANENT = {kind.exit_code for kind in (InputError, ConfigError, SecurityError)}  # trying again cannot help


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The tail of an error sentence: the nearest allowed word if one is near, else all of them."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(word, allowed, n=1)
    return f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(allowed)}"
