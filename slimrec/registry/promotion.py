"""Who is champion: promotion, rollback and their history, decided in the ledger and carried out on MLflow's alias.

An alias can be moved by anybody and knows no compare-and-swap. So a move is first an `intent` in the ledger, whose next
number only one of all that try can take; then the alias moves; then `commit` ends it. Whoever finds an intent without
an end finishes it, or reverts it where it cannot be finished, before doing anything of his own: of a process that died
on the way nothing is left undone, and nobody waits for one that is slow. A process that was stopped just before it
moved the alias, and goes on after others have moved it further, sees that in the ledger right after its own move and
puts the alias back where the ledger says.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimrec.errors import ConfigError, ConflictError, InputError, SecurityError
from slimrec.registry import versions
from slimrec.registry.ledger import LONGEST_REASON, Entry, Ledger
from slimrec.registry.versions import CHALLENGER, CHAMPION
from slimrec.track import Server, reaching


@dataclass(frozen=True)
class Move:
    """What a promotion or rollback came to."""

    name: str
    before: str  # version that was champion, "" for none
    after: str  # version that is champion
    moved: bool  # False when it was champion already
    remarks: tuple[str, ...] = ()


def promote(name: str, version: str = "", why: str = "", force: bool = False) -> Move:
    """Make a version champion, the challenger when none is named.

    Raises ConflictError unless the version was judged against the model that is champion at this moment and was not
    rejected, and when another promotion was faster; InputError for a version that is not there, SecurityError or
    ConflictError for one whose files are not what was registered. `force` promotes a version against its judgement; the
    reason `why`, which it needs (ConfigError), is kept in the ledger, on the version and in its description.
    """
    if force and not why.strip():
        raise ConfigError("a promotion against the judgement needs a reason: --force --reason TEXT")
    version = version and versions.number(version)
    server = versions.connect(name)
    ledger = Ledger(server, name)
    entries = _settle(server, ledger)
    before = versions.version_at(server, name, CHAMPION)
    after = version or versions.version_at(server, name, CHALLENGER)
    if not after:
        raise InputError(f"'{name}' has no challenger; name the version to promote, `slimrec history {name}` lists")
    if after == before:
        return Move(name, before, after, moved=False)
    objection = _objection(server, ledger, after, before)
    if objection and not force:
        raise ConflictError(f"{objection}; or promote it all the same: --force --reason TEXT")
    digest = versions.check(server, name, after, ledger.registered(after))
    said = f"forced: {why} (although {objection})" if objection else why
    what = {"action": "promote", "before": before, "after": after, "digest": digest, "why": said}
    if not _move(server, ledger, entries, **what):
        return promote(name, version, why, force)  # another was faster: look again
    if objection:
        _mark_forced(server, name, after, said)
    return Move(name, before, after, moved=True, remarks=(said,) if objection else ())


def rollback(name: str, why: str = "") -> Move:
    """Make the previous champion of the ledger champion again, the newest one that is still what was registered.

    A champion from which one was rolled back does not count as previous. Raises InputError where there is none left,
    ConflictError when another moved the champion at the same moment: two that roll back at night go one step, not two.
    """
    server = versions.connect(name)
    ledger = Ledger(server, name)
    entries = _settle(server, ledger)
    before = versions.version_at(server, name, CHAMPION)
    after, digest, remarks = _previous(server, ledger, entries, before)
    what = {"action": "rollback", "before": before, "after": after, "digest": digest}
    if not _move(server, ledger, entries, **what, why="; ".join(filter(None, [why, *remarks]))):
        raise ConflictError(f"another moved the champion of '{name}' at this moment: see `slimrec history {name}`")
    return Move(name, before, after, moved=True, remarks=tuple(remarks))


@dataclass(frozen=True)
class History:
    """The ledger of a model, which version the alias is at now, and what a person should know of the two."""

    entries: list[Entry]
    champion: str
    remarks: list[str]


def history(name: str) -> History:
    """Reads only."""
    server = versions.connect(name)
    entries = Ledger(server, name).entries()
    champion = versions.version_at(server, name, CHAMPION)
    past = _champions(entries)
    remarks = []
    if entries and entries[-1].kind == "intent":
        remarks.append(f"entry {entries[-1].number} is under way or was cut off: the next command ends it")
    elif past and champion != past[-1]:
        remarks.append(_departure(server, name, past[-1], champion))
    return History(entries, champion, remarks)


def was_champion(server: Server, name: str, version: str) -> bool:
    """Whether the ledger says that the version, with the content that it has, is champion or has been."""
    ledger = Ledger(server, name)
    content = versions.content(server, name, version, ledger.registered(version))
    return any((entry.kind, entry.after, entry.digest) == ("commit", version, content) for entry in ledger.entries())


def _move(server: Server, ledger: Ledger, entries: list[Entry], **what: str) -> bool:
    """Write an intent after `entries` and carry it out; False where somebody else has that number."""
    intent = ledger.append(len(entries) + 1, kind="intent", **what)
    if intent is None:
        return False
    outcome = _settle(server, ledger)[intent.number]
    if outcome.kind == "revert":
        raise ConflictError(f"version {intent.after} of '{ledger.name}' is not champion: {outcome.why}")
    return True


def _settle(server: Server, ledger: Ledger, moved_to: str = "") -> list[Entry]:
    """End an open intent, whoever began it; returns the entries once none is open. `moved_to`: where we put the alias."""
    entries = ledger.entries()
    if entries and entries[-1].kind == "intent":
        return _settle(server, ledger, _finish(server, ledger, entries[-1]) or moved_to)
    reigning = (_champions(entries) or [""])[-1]
    if not moved_to or moved_to == reigning or not reigning:
        return entries
    return _settle(server, ledger, _set_champion(server, ledger.name, reigning))  # others went on while we moved it


def _finish(server: Server, ledger: Ledger, intent: Entry) -> str:
    """Carry an intent out, or revert it where that cannot be; returns the version that the alias was moved to."""
    what = {name: getattr(intent, name) for name in ("action", "before", "after", "digest")}
    hindrance = _hindrance(server, intent, ledger.name)
    if hindrance:
        ledger.append(intent.number + 1, kind="revert", **what, why=hindrance)
        return ""
    _set_champion(server, ledger.name, intent.after)
    ledger.append(intent.number + 1, kind="commit", **what, why=intent.why)
    return intent.after


def _set_champion(server: Server, name: str, version: str) -> str:
    with reaching():
        server.set_registered_model_alias(name, CHAMPION, version)
    return version


def _hindrance(server: Server, intent: Entry, name: str) -> str:
    """Why an intent can no longer be carried out; "" when it can."""
    champion = versions.version_at(server, name, CHAMPION)
    if champion not in (intent.before, intent.after):
        return f"the champion became {_called(champion)} by other means; judge again"
    if not versions.exists(server, name, intent.after):
        return f"version {intent.after} was deleted"
    return ""


def _objection(server: Server, ledger: Ledger, version: str, champion: str) -> str:
    """Why the judgement on a version does not let it follow the present champion; "" where it does."""
    name = ledger.name
    record = versions.read(server, name, version)
    judged = ledger.judged(version) or versions.judgement(record)
    if judged is None:
        return f"version {version} of '{name}' does not say what it was judged against: audit again"
    if judged.against != champion:
        return (
            f"version {version} of '{name}' was judged against {_called(judged.against)}, but the champion is "
            f"{_called(champion)}: run the audit again, it then judges against that one"
        )
    registered = ledger.registered(champion)
    if champion and judged.content not in ("", versions.content(server, name, champion, registered)):
        return (
            f"version {version} of '{name}' was judged against another model than the one that is version {champion} "
            f"now: run the audit again, it then judges against that one"
        )
    if judged.verdict == "rejected":
        return f"version {version} of '{name}' was rejected against {_called(champion)}: {record.description}"
    return ""


def _mark_forced(server: Server, name: str, version: str, said: str) -> None:
    with reaching():
        server.set_model_version_tag(name, version, "slimrec.forced", said[:LONGEST_REASON])
        described = versions.read(server, name, version).description or ""
        server.update_model_version(name, version, description=f"{described}\n\nPromoted, {said}".strip())


def _champions(entries: list[Entry]) -> list[str]:
    """Versions in the order in which they became champion, without those that were rolled back; the last one reigns."""
    past: list[str] = []
    for entry in entries:
        if entry.kind != "commit":
            continue
        if entry.action == "rollback":
            del past[len(past) - past[::-1].index(entry.after) :]
            continue
        if entry.before and entry.before not in past[-1:]:
            past.append(entry.before)
        past.append(entry.after)
    return past


def _previous(server: Server, ledger: Ledger, entries: list[Entry], champion: str) -> tuple[str, str, list[str]]:
    """The version to go back to, its digest, and which ones were passed over for what reason."""
    name = ledger.name
    remarks: list[str] = []
    for version in reversed(_champions(entries)):
        if version == champion:
            continue
        try:
            return version, versions.check(server, name, version, ledger.registered(version)), remarks
        except (InputError, SecurityError, ConflictError) as error:
            remarks.append(f"version {version} passed over: {error}")
    passed = f" ({'; '.join(remarks)})" if remarks else ""
    raise InputError(f"'{name}' has no earlier champion to go back to{passed}; promote a version instead")


def _departure(server: Server, name: str, last: str, champion: str) -> str:
    if not versions.exists(server, name, last):
        return f"the champion, version {last}, was deleted; `slimrec rollback {name}` returns to the one before"
    return f"the alias is at {_called(champion)}, moved by other means; the ledger says version {last}"


def _called(version: str) -> str:
    return f"version {version}" if version else "no champion"
