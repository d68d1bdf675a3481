"""Cron expressions as Kubeflow Pipelines reads them, checked before they are sent: it takes a bad one without a word."""

from slimrec.errors import ConfigError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = {  # name -> first, last, names of the values from `first` on
    "second": (0, 59, ()),
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day of the month": (1, 31, ()),
    "month": (1, 12, _MONTHS),
    "day of the week": (0, 6, _DAYS),
}
_LONGEST = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)))


def check(expression: str) -> str:
    """The expression, if it has six fields that can be met: second minute hour day-of-month month day-of-week, in UTC.

    Raises ConfigError. The scheduler would read five fields as beginning with the seconds, and never fire on a day
    that no month has. Grammar: https://pkg.go.dev/github.com/robfig/cron#hdr-CRON_Expression_Format
    """
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(
            f"the schedule '{expression}' has {len(fields)} fields; six are needed, {', '.join(_FIELDS)}: "
            "'0 0 3 * * 1' is every Monday at 3:00:00 UTC"
        )
    values = [_values(name, text, expression) for name, text in zip(_FIELDS, fields)]
    days, months = values[3], values[4]
    any_weekday = fields[-1][0] in "*?"
    if any_weekday and not any(day <= _LONGEST[month] for day in days for month in months):
        raise ConfigError(f"the schedule '{expression}' never comes: no such month has that day")
    return expression


def _values(name: str, text: str, expression: str) -> set[int]:
    """All values that a field allows."""
    first, last, names = _FIELDS[name]
    found = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        low, dash, high = span.partition("-")
        if span in ("*", "?"):
            start, end = first, last
        else:
            start = _number(low, names, first)
            end = _number(high, names, first) if dash else last if slash else start
        every = _number(step) if slash else 1
        if not (first <= start <= end <= last and every > 0):
            words = f", or {names[0].upper()} to {names[-1].upper()}" if names else ""
            raise ConfigError(
                f"the schedule '{expression}' has '{part}' for the {name}; allowed: {first} to {last}{words}, "
                "as *, 5, 1-5, */10, 0-30/5 or a list with commas"
            )
        found |= set(range(start, end + 1, every))
    return found


def _number(text: str, names: tuple[str, ...] = (), first: int = 0) -> int:
    """What a name or a row of digits stands for; -1 for anything else."""
    if text.lower() in names:
        return first + names.index(text.lower())
    return int(text) if text.isascii() and text.isdigit() else -1
