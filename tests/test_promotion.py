"""Promotion and rollback: one winner of a race, nothing half done, nothing that was not judged, nothing that does not load."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import services
import small
from mlflow import MlflowClient
from typer.testing import CliRunner

from slimrec import track
from slimrec.artifacts import digest
from slimrec.cli import app
from slimrec.config import RegisterConfig
from slimrec.errors import ConfigError, ConflictError, InputError, SecurityError, SlimrecError
from slimrec.registry import champion, promotion, registration, versions
from slimrec.registry.ledger import Judged, Ledger
from slimrec.registry.versions import CHAMPION, DIGEST, JUDGED, NONE


@pytest.fixture(scope="module")
def slims(tmp_path_factory) -> list[Path]:
    """Four slim models with contents of their own."""
    folder = tmp_path_factory.mktemp("slims")
    first = small.make(folder, rows=600).slim
    return [first, *(small.variant(first, folder / f"variant{i}", 0.1 * i) for i in (1, 2, 3))]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with services.mlflow_on_sqlite(tmp_path_factory.mktemp("mlflow"), MLFLOW_TRACKING_USERNAME="ann") as folder:
        yield folder


@pytest.fixture
def client(store):
    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def register(name, slim, champion="", approval="manual", own_files=False) -> str:
    """One version, judged against `champion`; see `shelve` for its files."""
    if not own_files:
        shelve(name, slim)
    with track.run("register", RegisterConfig(name=name)) as tracker:
        decision = small.decision(champion, name)
        found = registration.register(name, slim, slim, decision, approval, tracker.run_id)
    return found["version"]


def shelve(name: str, slim: Path) -> None:
    """Let `name` have the files that the first of their content was registered with: to store them takes longest."""
    client, content = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), digest(slim)
    if not client.search_model_versions(f"name = '{name}' and tags.`{DIGEST}` = '{content}'"):
        stored = client.search_model_versions(f"name = 'shelf' and tags.`{DIGEST}` = '{content}'")
        version = stored[0].version if stored else register("shelf", slim, own_files=True)
        client.copy_model_version(f"models:/shelf/{version}", name)


def rejudge(client, name, version, champion, **changed):
    """As by another audit of the same model."""
    content = versions.content(client, name, champion, None) if champion else NONE
    told = {"against": champion, "content": content, "verdict": "certified", **changed}
    Ledger(client, name).judge(version, Judged(**told))


def champion_of(client, name) -> str:
    return str(client.get_registered_model(name).aliases.get(CHAMPION, ""))


def kinds(client, name) -> list[tuple[str, str, str, str]]:
    return [(e.kind, e.action, e.before, e.after) for e in Ledger(client, name).entries()]


def test_promotions_and_rollbacks_are_written_down_and_move_the_alias(client, slims):
    for i, slim in enumerate(slims[:3]):
        version = register("story", slim, champion_of(client, "story") if i else "")
        assert promotion.promote("story", why="it is better").moved
        assert champion_of(client, "story") == version
    assert promotion.rollback("story").after == "2" and champion_of(client, "story") == "2"
    assert promotion.rollback("story").after == "1" and champion_of(client, "story") == "1"
    with pytest.raises(InputError, match="no earlier champion"):
        promotion.rollback("story")
    wanted = [("promote", "", "1"), ("promote", "1", "2"), ("promote", "2", "3")]
    wanted += [("rollback", "3", "2"), ("rollback", "2", "1")]
    assert kinds(client, "story") == [(kind, *move) for move in wanted for kind in ("intent", "commit")]
    entries = Ledger(client, "story").entries()
    assert {entry.by for entry in entries} == {"ann"} and entries[0].why == "it is better"
    assert entries[-1].why == ""
    assert entries[3].digest == digest(slims[1])


def test_after_a_rollback_the_way_forward_starts_from_there(client, slims):
    for i, slim in enumerate(slims[:3]):
        register("forward", slim, str(i) if i else "")
        promotion.promote("forward")
    promotion.rollback("forward")
    rejudge(client, "forward", "1", "2")
    assert promotion.promote("forward", "1").before == "2"
    assert promotion.rollback("forward").after == "2"


def test_what_comes_back_is_byte_for_byte_what_was_registered(client, slims, tmp_path):
    register("bytes", slims[0], approval="automatic", own_files=True)
    register("bytes", slims[1], "1", approval="automatic", own_files=True)
    promotion.rollback("bytes")
    slim = versions.fetch(client, "bytes", champion_of(client, "bytes"), tmp_path, None)
    assert contents(slim) == contents(slims[0]) and contents(slim) != contents(slims[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_judged_against_a_former_champion_is_not_promoted(client, slims):
    register("stale", slims[0], approval="automatic")
    register("stale", slims[1], "1")
    register("stale", slims[2], "1", approval="automatic")
    with pytest.raises(ConflictError, match="judged against version 1, but the champion is version 3") as refused:
        promotion.promote("stale", "2")
    assert refused.value.exit_code == 50 and champion_of(client, "stale") == "3"
    client.set_registered_model_alias("stale", CHAMPION, "1")  # by hand: the judgement holds again
    assert promotion.promote("stale", "2").moved


def test_a_version_from_elsewhere_that_was_never_judged_is_not_promoted(client, slims):
    register("elsewhere", slims[0])
    client.create_registered_model("foreign")
    client.copy_model_version("models:/elsewhere/1", "foreign")
    client.delete_model_version_tag("foreign", "1", JUDGED)
    client.set_registered_model_alias("foreign", "challenger", "1")
    with pytest.raises(ConflictError, match="does not say what it was judged against"):
        promotion.promote("foreign")
    assert champion_of(client, "foreign") == "" and kinds(client, "foreign") == []


def test_promoting_twice_moves_once(client, slims):
    register("twice", slims[0])
    assert promotion.promote("twice").moved and not promotion.promote("twice").moved
    assert len(kinds(client, "twice")) == 2


def test_a_retried_register_step_neither_promotes_twice_nor_undoes_a_rollback(client, slims):
    register("retried", slims[0], approval="automatic")
    register("retried", slims[1], "1", approval="automatic")
    promotion.rollback("retried")
    with track.run("register", RegisterConfig(name="retried")) as tracker:
        decision = small.decision("1", "retried")
        found = registration.register("retried", slims[1], slims[1], decision, "automatic", tracker.run_id)
    assert found["version"] == "2" and found["aliases"] == ["challenger"]
    assert found["reason"].endswith(
        "; version 2 was champion before, only a person makes it that again: slimrec promote retried"
    )
    assert champion_of(client, "retried") == "1" and len(client.search_model_versions("name = 'retried'")) == 2


def model_file(client, name, version) -> Path:
    where = Path(client.get_model_version_download_uri(name, version).removeprefix("file://"))
    return next((where / "artifacts").rglob("model.safetensors"))


def test_a_version_whose_files_are_gone_or_changed_is_not_promoted(client, slims):
    register("damaged", slims[0], own_files=True)
    file = model_file(client, "damaged", "1")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SecurityError, match=r"model\.safetensors is not the file its manifest describes"):
        promotion.promote("damaged")
    file.write_bytes(content)
    file.with_name("manifest.json").unlink()
    with pytest.raises(SecurityError, match="version 1 of 'damaged' is not a slim model"):
        promotion.promote("damaged")
    for path in sorted(file.parents[2].rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(SecurityError, match=f"has no files any more at file://{file.parents[2]}"):
        promotion.promote("damaged")
    assert champion_of(client, "damaged") == "" and kinds(client, "damaged") == []


def test_rollback_passes_over_versions_that_are_deleted_or_damaged_and_says_so(client, slims):
    for i, slim in enumerate(slims):
        register("holes", slim, str(i) if i else "", approval="automatic", own_files=i == 2)
    model_file(client, "holes", "3").unlink()
    client.delete_model_version("holes", "2")
    move = promotion.rollback("holes")
    assert move.after == "1" == champion_of(client, "holes")
    assert len(move.remarks) == 2 and "version 3 passed over" in move.remarks[0] and "no version 2" in move.remarks[1]
    assert "version 3 passed over" in Ledger(client, "holes").entries()[-1].why


def test_a_deleted_champion_is_reported_and_one_command_brings_the_one_before_back(client, slims):
    register("deleted", slims[0], approval="automatic")
    register("deleted", slims[1], "1", approval="automatic")
    client.delete_model_version("deleted", "2")  # MLflow takes the alias along
    said = CliRunner().invoke(app, ["history", "deleted"]).output
    assert "champion of deleted: none" in said and "version 2, was deleted" in said
    assert "`slimrec rollback deleted`" in said
    assert "version 1" in CliRunner().invoke(app, ["rollback", "deleted", "--why", "2 is gone"]).output
    assert champion_of(client, "deleted") == "1"


def test_an_alias_moved_by_hand_is_told(client, slims):
    register("by-hand", slims[0], approval="automatic")
    register("by-hand", slims[1], "1")
    client.set_registered_model_alias("by-hand", CHAMPION, "2")
    (remark,) = promotion.history("by-hand").remarks
    assert "alias is at version 2, moved by other means; the ledger says version 1" in remark
    assert promotion.rollback("by-hand").after == "1"


def intend(client, name, before, after, content) -> None:
    """What a process leaves that dies right after it has written its intent."""
    ledger = Ledger(client, name)
    what = {"action": "promote", "before": before, "after": after, "digest": content, "why": "cut off"}
    assert ledger.append(len(ledger.entries()) + 1, kind="intent", **what)


@pytest.mark.battery
@pytest.mark.parametrize("moved", [False, True], ids=["before the alias moved", "after the alias moved"])
def test_what_a_killed_promotion_began_the_next_command_finishes(client, slims, moved):
    name = f"killed-{moved}"
    register(name, slims[0], approval="automatic")
    register(name, slims[1], "1")
    intend(client, name, "1", "2", digest(slims[1]))
    if moved:
        client.set_registered_model_alias(name, CHAMPION, "2")
    assert "the next command ends it" in promotion.history(name).remarks[0]
    assert promotion.rollback(name).before == "2"
    assert kinds(client, name)[2:4] == [("intent", "promote", "1", "2"), ("commit", "promote", "1", "2")]


def test_an_intent_that_cannot_be_carried_out_any_more_is_reverted(client, slims):
    register("reverted", slims[0], approval="automatic")
    register("reverted", slims[1], "1")
    register("reverted", slims[2], "1")
    intend(client, "reverted", "1", "2", digest(slims[1]))
    client.delete_model_version("reverted", "2")
    assert promotion.promote("reverted", "3").before == "1"
    assert [kind for kind, *_ in kinds(client, "reverted")] == [
        "intent",
        "commit",
        "intent",
        "revert",
        "intent",
        "commit",
    ]


def test_a_champion_swapped_between_the_check_and_the_move_stops_the_promotion(client, slims):
    """The swap happens at the last moment there is: after the intent, before the alias."""
    for i, slim in enumerate(slims[:3]):
        register("swapped", slim, "1" if i else "", approval="manual" if i else "automatic")

    class Swapping(MlflowClient):
        def log_param(self, run_id, key, value, **rest):
            super().log_param(run_id, key, value, **rest)
            if json.loads(value)["kind"] == "intent":
                self.set_registered_model_alias("swapped", CHAMPION, "3")

    server = Swapping(client.tracking_uri)
    entries = Ledger(server, "swapped").entries()
    what = {"action": "promote", "before": "1", "after": "2", "digest": digest(slims[1]), "why": ""}
    with pytest.raises(ConflictError, match="became version 3 by other means"):
        promotion._move(server, Ledger(server, "swapped"), entries, **what)
    assert champion_of(client, "swapped") == "3" and kinds(client, "swapped")[-1][0] == "revert"


def test_a_process_that_wakes_up_late_puts_the_alias_back(client, slims):
    """It sleeps between its last look and its move; meanwhile another finishes its promotion and makes one more."""
    for i, slim in enumerate(slims[:3]):
        register("late", slim, "1" if i else "", approval="manual" if i else "automatic")

    class Sleeper(MlflowClient):
        awake = False

        def set_registered_model_alias(self, name, alias, version):
            if not self.awake:
                self.awake = True
                rejudge(client, name, "3", "2")
                assert promotion.promote(name, "3").before == "2"  # finished for us first
            super().set_registered_model_alias(name, alias, version)

    server = Sleeper(client.tracking_uri)
    ledger = Ledger(server, "late")
    intend(client, "late", "1", "2", digest(slims[1]))
    promotion._settle(server, ledger)
    assert server.awake and champion_of(client, "late") == "3"
    assert [after for kind, _, _, after in kinds(client, "late") if kind == "commit"] == ["1", "2", "3"]


def test_of_two_that_promote_at_once_the_slower_one_looks_again_at_what_reigns_by_then(client, slims, monkeypatch):
    for i, slim in enumerate(slims[:3]):
        register("at-once", slim, "1" if i else "", approval="manual" if i else "automatic")
    looked, check = [], versions.check

    def slow(*what):
        found = check(*what)
        if not looked:
            looked.append(found)
            assert promotion.promote("at-once", "3").moved
        return found

    monkeypatch.setattr(versions, "check", slow)
    with pytest.raises(ConflictError, match="version 2 of 'at-once' was judged against version 1, but the champion is"):
        promotion.promote("at-once", "2")
    assert champion_of(client, "at-once") == "3"


@pytest.mark.battery
def test_two_that_roll_back_at_once_go_one_step_back(client, slims, monkeypatch):
    """The second has looked already when the first is through."""
    for i, slim in enumerate(slims[:3]):
        register("night", slim, str(i) if i else "", approval="automatic")
    looked, previous = [], promotion._previous

    def slow(*what):
        found = previous(*what)
        if not looked:
            looked.append(found)
            assert promotion.rollback("night").after == "2"
        return found

    monkeypatch.setattr(promotion, "_previous", slow)
    with pytest.raises(ConflictError, match="another moved the champion of 'night'"):
        promotion.rollback("night")
    assert looked and champion_of(client, "night") == "2"


@pytest.mark.battery
def test_a_model_made_again_under_its_name_inherits_nothing_from_the_dead_one(client, slims):
    register("again", slims[0], approval="automatic")
    register("again", slims[1], "1", approval="automatic")
    client.delete_registered_model("again")
    assert register("again", slims[1], approval="automatic") == "1" == champion_of(client, "again")
    assert kinds(client, "again") == [("intent", "promote", "", "1"), ("commit", "promote", "", "1")]
    assert promotion.history("again").remarks == []
    with pytest.raises(InputError, match="no earlier champion"):
        promotion.rollback("again")


@pytest.mark.battery
def test_a_renamed_model_keeps_its_ledger_and_the_next_of_its_name_begins_one(client, slims):
    register("before", slims[0], approval="automatic")
    register("before", slims[1], "1", approval="automatic")
    client.rename_registered_model("before", "after")
    assert promotion.rollback("after").after == "1"
    register("before", slims[2], approval="automatic")
    assert len(kinds(client, "after")) == 6 and len(kinds(client, "before")) == 2


@pytest.mark.parametrize("spelling", ["01", "v1", "+1", " 1", "1_0", "1.0", "champion", "-1"])
def test_a_version_is_named_as_the_registry_writes_it(client, slims, spelling):
    if not client.search_model_versions("name = 'spelled'"):
        register("spelled", slims[0])
    with pytest.raises(InputError, match="a version is a number as the registry shows it"):
        promotion.promote("spelled", spelling)
    assert champion_of(client, "spelled") == "" and kinds(client, "spelled") == []


def rejected(name: str, slim: Path, champion: str, verdict: str = "rejected", approval: str = "automatic") -> dict:
    """A version that came off worse against the champion."""
    decision = small.decision(champion, name)
    decision["champion"] |= {"verdict": verdict, "reason": "it is worse", "digest": ""}
    shelve(name, slim)
    with track.run("register", RegisterConfig(name=name)) as tracker:
        return registration.register(name, slim, slim, decision, approval, tracker.run_id)


@pytest.mark.parametrize("verdict", ["rejected", "inconclusive"])
def test_only_what_is_certified_against_the_champion_is_promoted_without_a_person(client, slims, verdict):
    name = f"weak-{verdict}"
    register(name, slims[0], approval="automatic")
    found = rejected(name, slims[1], "1", verdict)
    assert found["aliases"] == ["challenger"] and "version 1 stays champion: it is worse" in found["reason"]
    assert champion_of(client, name) == "1"


def test_a_rejected_version_is_promoted_only_by_force_and_the_reason_is_kept(client, slims):
    register("forced", slims[0], approval="automatic")
    rejected("forced", slims[1], "1")
    with pytest.raises(ConflictError, match="was rejected against version 1") as refused:
        promotion.promote("forced")
    assert "--force --reason TEXT" in str(refused.value)
    for why in ("", " "):
        with pytest.raises(ConfigError, match="needs a reason"):
            promotion.promote("forced", force=True, why=why)
    assert champion_of(client, "forced") == "1"
    done = CliRunner().invoke(app, ["promote", "forced", "--force", "--reason", "the old one must go"])
    assert done.exit_code == 0 and champion_of(client, "forced") == "2", done.output
    version = client.get_model_version("forced", "2")
    for place in (Ledger(client, "forced").entries()[-1].why, version.tags["slimrec.forced"], version.description):
        assert "the old one must go" in place and "was rejected against version 1" in place


def test_tags_that_somebody_changed_make_no_other_judgement(client, slims):
    register("whitewashed", slims[0], approval="automatic")
    rejected("whitewashed", slims[1], "1")
    client.set_model_version_tag("whitewashed", "2", versions.JUDGEMENT, "certified")
    with pytest.raises(ConflictError, match="was rejected against version 1"):
        promotion.promote("whitewashed", "2")
    register("whitewashed", slims[2], "1")
    client.set_registered_model_alias("whitewashed", CHAMPION, "2")
    for tag, value in ((JUDGED, "2"), (versions.JUDGED_DIGEST, digest(slims[1]))):
        client.set_model_version_tag("whitewashed", "3", tag, value)
    with pytest.raises(ConflictError, match="judged against version 1, but the champion is version 2"):
        promotion.promote("whitewashed", "3")


def test_of_several_judgements_on_a_version_the_last_one_counts(client, slims):
    register("several", slims[0], approval="automatic")
    register("several", slims[1], "1")
    for verdict, objection in (("rejected", "was rejected"), ("certified", ""), ("rejected", "was rejected")):
        rejudge(client, "several", "2", "1", verdict=verdict)
        rejudge(client, "several", "2", "1", verdict=verdict)  # a retry
        found = promotion._objection(client, Ledger(client, "several"), "2", "1")
        assert objection in found and bool(found) == bool(objection)
    run = client.get_run(client.get_experiment_by_name(Ledger(client, "several")._place()).tags["slimrec.ledger"])
    assert sorted(key for key in run.data.params if "judged-2-" in key) == [f"judged-2-{n:08d}" for n in (1, 2, 3, 4)]


def test_force_does_not_promote_what_is_not_what_was_registered(client, slims):
    register("damaged-forced", slims[0], approval="automatic")
    register("damaged-forced", slims[1], "1", own_files=True)
    model_file(client, "damaged-forced", "2").write_bytes(b"something else")
    with pytest.raises(SecurityError):
        promotion.promote("damaged-forced", why="I want it", force=True)
    assert champion_of(client, "damaged-forced") == "1"


def test_a_version_judged_against_other_content_under_the_same_number_is_not_promoted(client, slims):
    register("content", slims[0], approval="automatic")
    register("content", slims[1], "1")
    rejudge(client, "content", "2", "1", content=digest(slims[3]))
    with pytest.raises(ConflictError, match="judged against another model than the one that is version 1 now"):
        promotion.promote("content", "2")


def test_what_the_ledger_recorded_counts_and_not_a_tag_that_anybody_can_set(client, slims, tmp_path):
    register("tagged", slims[0], approval="automatic")
    register("tagged", slims[1], "1", own_files=True)
    place = Path(
        client.get_model_version_download_uri("tagged", "2").removeprefix("file://"), "artifacts", slims[1].name
    )
    shutil.rmtree(place)
    shutil.copytree(slims[0], place)
    client.set_model_version_tag("tagged", "2", DIGEST, digest(slims[0]))
    with pytest.raises(SecurityError, match="registered was"):
        promotion.promote("tagged", "2")
    client.set_registered_model_alias("tagged", CHAMPION, "2")
    with pytest.raises(SecurityError, match="registered was"):
        champion.reigning("tagged", tmp_path)


def test_tags_of_the_champion_that_somebody_removed_stop_no_promotion(client, slims):
    """Else every audit to come would be told to run again."""
    register("untagged", slims[0], approval="automatic")
    register("untagged", slims[1], "1")
    rejudge(client, "untagged", "2", "1")
    for tag in client.get_model_version("untagged", "1").tags:
        client.delete_model_version_tag("untagged", "1", tag)
    assert promotion.was_champion(client, "untagged", "1")
    assert promotion.promote("untagged", "2").moved


def test_the_champion_found_again_is_not_judged_against_itself(client, slims):
    register("itself", slims[0], approval="automatic")
    assert register("itself", slims[0], "1", approval="automatic") == "1"
    assert client.get_model_version("itself", "1").tags[JUDGED] == NONE
    assert kinds(client, "itself") == [("intent", "promote", "", "1"), ("commit", "promote", "", "1")]


def test_errors_of_a_person_say_what_to_do(client, slims):
    register("real", slims[0])
    with pytest.raises(InputError, match="no model 'rael'; did you mean 'real'"):
        promotion.promote("rael")
    with pytest.raises(InputError, match="'real' has no version 7"):
        promotion.promote("real", "7")
    client.delete_registered_model_alias("real", "challenger")
    with pytest.raises(InputError, match="no challenger"):
        promotion.promote("real")


def race(count: int, what) -> list:
    """Results of `what(i)` from threads that start together; errors meant for a person are results."""
    barrier, results = threading.Barrier(count), [None] * count

    def go(i):
        barrier.wait()
        try:
            results[i] = what(i)
        except SlimrecError as error:
            results[i] = error

    threads = [threading.Thread(target=go, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def race_for_entries(address: str, name: str, rounds: int, writers: int = 4) -> None:
    """Many write the same number at once: one gets it, and all read what it wrote."""
    MlflowClient(address).create_registered_model(name)
    ledgers = [Ledger(MlflowClient(address), name) for _ in range(writers)]
    what = {"action": "promote", "before": "", "after": "1", "digest": "", "why": ""}
    for number in range(1, rounds + 1):
        won = race(writers, lambda i, n=number: ledgers[i].append(n, kind="commit", **what))
        assert sum(entry is not None for entry in won) == 1, won
    assert len({ledger._run for ledger in ledgers}) == 1
    assert [len(ledger.entries()) for ledger in ledgers] == [rounds] * writers


def race_for_champion(address: str, name: str, slims: list[Path], rounds: int) -> None:
    """Two promotions judged against the same champion: one succeeds, the other has to be judged again (exit 50)."""
    client = MlflowClient(address)
    for slim in slims[:3]:
        register(name, slim)
    promotion.promote(name, "1")
    for _ in range(rounds):
        champion = champion_of(client, name)
        others = [version for version in "123" if version != champion]
        for version in others:
            rejudge(client, name, version, champion)
        done = race(2, lambda i, o=others: promotion.promote(name, o[i]))
        moves = [move for move in done if isinstance(move, promotion.Move)]
        losers = [error for error in done if isinstance(error, ConflictError)]
        assert len(moves) == len(losers) == 1, done
        assert champion_of(client, name) == moves[0].after
    assert [kind for kind, *_ in kinds(client, name)] == ["intent", "commit"] * (rounds + 1)


@pytest.mark.battery
def test_of_two_promotions_that_race_over_http_exactly_one_wins(slims, tmp_path, monkeypatch):
    with services.mlflow_server(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        race_for_entries(address, "entries", rounds=25)
        race_for_champion(address, "race", slims, rounds=3)
