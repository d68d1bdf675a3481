"""The rules of the ledger and of who may follow whom, on versions without files: what these rules decide needs none."""

import json
import re
import time

import pytest
import services
from mlflow import MlflowClient
from pydantic import ValidationError

from slimrec.artifacts import digest, publish
from slimrec.errors import ConfigError, ConflictError, InputError, SecurityError
from slimrec.registry import ledger as ledgers
from slimrec.registry import promotion, registration, rejudgement, versions
from slimrec.registry.ledger import Entry, Judged, Ledger, Registered
from slimrec.registry.versions import CHAMPION, DIGEST, JUDGED, JUDGED_DIGEST, JUDGEMENT, NONE


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with services.mlflow_on_sqlite(tmp_path_factory.mktemp("mlflow"), MLFLOW_TRACKING_USERNAME="ann") as folder:
        yield MlflowClient(f"sqlite:///{folder}/mlflow.db")


def model(client, name: str, count: int = 0, champion: str = "") -> Ledger:
    """A registered model with versions 1 to `count`, of contents `content 1` and so on, and its ledger."""
    client.create_registered_model(name)
    for i in range(1, count + 1):
        client.create_model_version(name, f"file:///nowhere/{name}/{i}", tags={DIGEST: f"content {i}"})
    if champion:
        client.set_registered_model_alias(name, CHAMPION, champion)
    return Ledger(client, name)


def champion_of(client, name: str) -> str:
    return str(client.get_registered_model(name).aliases.get(CHAMPION, ""))


def write(ledger: Ledger, kind: str, before: str, after: str, action: str = "promote", why: str = "") -> Entry | None:
    what = {"action": action, "before": before, "after": after, "digest": f"content {after}", "why": why}
    return ledger.append(len(ledger.entries()) + 1, kind=kind, **what)


def entry(told: str) -> Entry:
    """`commit promote 1 2` as an entry; a version of 0 is none."""
    kind, action, *moved = told.split()
    before, after = (version.replace("0", "") for version in moved)
    about = {"number": 1, "digest": "", "by": "", "at": "", "why": "", "token": ""}
    return Entry(kind=kind, action=action, before=before, after=after, **about)


@pytest.mark.parametrize(
    ("told", "champions"),
    [
        ([], ""),
        (["commit promote 0 1", "commit promote 1 2"], "12"),
        (["commit promote 0 1", "intent promote 1 2", "revert promote 1 2"], "1"),
        (["commit promote 0 1", "commit promote 1 2", "commit rollback 2 1"], "1"),
        (["commit promote 0 1", "commit promote 1 2", "commit promote 2 1", "commit promote 1 3"], "1213"),
        ([f"commit promote {a} {b}" for a, b in ("01", "12", "21", "13")] + ["commit rollback 3 1"], "121"),
        ([f"commit promote {a} {b}" for a, b in ("01", "12", "23")] + ["commit rollback 3 1"], "1"),
        (["commit promote 1 2"], "12"),  # version 1 was made champion by other means
        (["commit promote 0 1", "commit promote 2 3"], "123"),  # and here version 2
        (["commit promote 0 1", "commit promote 2 3", "commit rollback 3 2"], "12"),
    ],
)
def test_champions_are_those_that_were_promoted_or_found_in_place_and_not_rolled_back(told, champions):
    assert promotion._champions([entry(each) for each in told]) == list(champions)


@pytest.mark.parametrize(
    ("champion", "tags", "objection"),
    [
        ("", {JUDGED: NONE, JUDGEMENT: "certified"}, ""),
        ("1", {JUDGED: "1", JUDGEMENT: "certified"}, ""),
        ("1", {JUDGED: "1", JUDGEMENT: "inconclusive"}, ""),  # a person may: nothing speaks against it
        ("1", {JUDGED: "1", JUDGED_DIGEST: "content 1", JUDGEMENT: "certified"}, ""),
        ("1", {JUDGED: "1", JUDGED_DIGEST: "another", JUDGEMENT: "certified"}, "judged against another model than"),
        ("1", {JUDGED: "1", JUDGEMENT: "rejected"}, "was rejected against version 1: it is worse"),
        ("1", {}, "does not say what it was judged against"),
        ("1", {JUDGED: NONE}, "judged against no champion, but the champion is version 1"),
        ("", {JUDGED: "1"}, "judged against version 1, but the champion is no champion"),
    ],
)
def test_a_version_follows_the_champion_that_it_was_judged_against_and_not_rejected(
    client, champion, tags, objection, tmp_path
):
    name = tmp_path.name  # one that no other has
    model(client, name, 2, champion)
    for tag, value in tags.items():
        client.set_model_version_tag(name, "2", tag, value)
    client.update_model_version(name, "2", description="it is worse")
    found = promotion._objection(client, Ledger(client, name), "2", champion)
    assert objection in found and bool(found) == bool(objection)
    if objection:
        with pytest.raises(ConflictError, match=objection):
            promotion.promote(name, "2")
        assert champion_of(client, name) == champion and Ledger(client, name).entries() == []


def test_an_open_intent_is_carried_out_by_whoever_finds_it(client):
    ledger = model(client, "open", 2, champion="1")
    write(ledger, "intent", "1", "2", why="it is better")
    entries = promotion._settle(client, ledger)
    assert champion_of(client, "open") == "2"
    assert [(e.number, e.kind, e.action, e.before, e.after, e.digest, e.why) for e in entries] == [
        (i, kind, "promote", "1", "2", "content 2", "it is better") for i, kind in ((1, "intent"), (2, "commit"))
    ]
    assert promotion._settle(client, ledger) == entries


def test_an_intent_is_reverted_where_the_champion_is_neither_the_old_nor_the_new_one(client):
    ledger = model(client, "other-means", 3, champion="3")
    write(ledger, "intent", "1", "2", why="it is better")
    assert [e.kind for e in promotion._settle(client, ledger)] == ["intent", "revert"]
    assert "the champion became version 3 by other means" in ledger.entries()[-1].why
    assert champion_of(client, "other-means") == "3"


def test_an_intent_is_reverted_where_its_version_is_gone(client):
    ledger = model(client, "gone", 2, champion="1")
    intent = write(ledger, "intent", "1", "2")
    assert promotion._hindrance(client, intent, "gone") == ""
    client.delete_model_version("gone", "2")
    assert promotion._finish(client, ledger, intent) == ""  # the alias was moved nowhere
    assert promotion._settle(client, ledger)[-1].why == "version 2 was deleted"
    assert champion_of(client, "gone") == "1"


def test_a_rollback_passes_over_the_champion_and_without_another_says_what_to_do(client):
    ledger = model(client, "alone", 2, champion="1")
    write(ledger, "commit", "", "1")
    with pytest.raises(InputError, match="'alone' has no earlier champion to go back to; promote a version instead"):
        promotion.rollback("alone")
    write(ledger, "commit", "1", "2")
    client.set_registered_model_alias("alone", CHAMPION, "2")
    with pytest.raises(InputError, match=r"go back to \(version 1 passed over: version 1 of 'alone' has no files"):
        promotion.rollback("alone")
    assert champion_of(client, "alone") == "2" and len(ledger.entries()) == 2


def test_of_two_that_looked_at_the_same_ledger_one_moves_and_one_does_not(client):
    ledger = model(client, "looked", 3, champion="1")
    what = {"action": "promote", "before": "1", "digest": "", "why": ""}
    entries = ledger.entries()
    assert promotion._move(client, ledger, entries, after="2", **what) is True and champion_of(client, "looked") == "2"
    assert promotion._move(client, ledger, entries, after="3", **what) is False and champion_of(client, "looked") == "2"
    with pytest.raises(ConflictError, match="version 3 of 'looked' is not champion: the champion became version 2 by"):
        promotion._move(client, ledger, ledger.entries(), after="3", **what)
    assert [e.kind for e in ledger.entries()] == ["intent", "commit", "intent", "revert"]


def test_nobody_who_has_moved_nothing_puts_an_alias_back(client):
    ledger = model(client, "by-hand", 2)
    write(ledger, "commit", "", "1")
    client.set_registered_model_alias("by-hand", CHAMPION, "2")
    promotion._settle(client, ledger)
    assert champion_of(client, "by-hand") == "2"


def test_the_history_tells_where_ledger_and_alias_part(client):
    ledger = model(client, "told", 3)
    assert promotion.history("told") == promotion.History([], "", [])
    write(ledger, "commit", "", "1")
    client.set_registered_model_alias("told", CHAMPION, "1")
    assert promotion.history("told").remarks == []
    client.set_registered_model_alias("told", CHAMPION, "3")
    (remark,) = promotion.history("told").remarks
    assert remark == "the alias is at version 3, moved by other means; the ledger says version 1"
    write(ledger, "intent", "3", "2")
    (remark,) = promotion.history("told").remarks
    assert remark == "entry 2 is under way or was cut off: the next command ends it"
    promotion._settle(client, ledger)
    client.delete_model_version("told", "2")
    (remark,) = promotion.history("told").remarks
    assert "the champion, version 2, was deleted" in remark
    write(ledger, "intent", "", "1")
    (remark,) = promotion.history("told").remarks
    assert remark == "entry 4 is under way or was cut off: the next command ends it"
    promotion._settle(client, ledger)
    client.delete_registered_model_alias("told", CHAMPION)
    assert promotion.history("told").champion == "" and len(promotion.history("told").entries) == 5


def test_what_was_champion_is_told_by_number_and_content_and_only_once_it_is_done(client):
    ledger = model(client, "was", 3)
    write(ledger, "commit", "", "1")
    write(ledger, "intent", "1", "2")
    assert [promotion.was_champion(client, "was", version) for version in "123"] == [True, False, False]
    client.set_model_version_tag("was", "1", DIGEST, "content that came later")
    assert not promotion.was_champion(client, "was", "1")


def test_entries_stand_in_the_order_of_their_numbers_and_each_number_is_taken_once(client):
    ledger = model(client, "numbers")
    assert ledger.entries() == []
    for i in range(1, 12):
        assert write(ledger, "commit", str(i - 1), str(i)).number == i
    other = Ledger(client, "numbers")
    assert [e.after for e in other.entries()] == [str(i) for i in range(1, 12)]
    what = {"action": "promote", "before": "", "after": "9", "digest": "", "why": "too late"}
    assert other.append(11, kind="commit", **what) is None
    assert other.entries()[10].after == "11" and {e.by for e in other.entries()} == {"ann"}
    assert len({e.token for e in other.entries()}) == 11


def test_a_reason_is_cut_to_what_fits_and_the_rest_of_the_entry_is_whole(client):
    ledger = model(client, "long")
    written = write(ledger, "commit", "", "1", why="x" * 2005)
    assert write(ledger, "commit", "1", "2", why="y" * 2000).why == "y" * 2000
    assert written == ledger.entries()[0] and written.why == "x" * 2000


def test_a_ledger_with_a_hole_or_with_what_is_no_entry_is_not_believed(client):
    ledger = model(client, "holed")
    written = write(ledger, "commit", "", "1")
    client.log_param(ledger._run, "00000003", written.model_copy(update={"number": 3}).model_dump_json())
    with pytest.raises(SecurityError, match="not one unbroken sequence"):
        ledger.entries()
    for text, said in (("not JSON", "holds what is no entry"), (json.dumps({"number": 2}), "kind")):
        other = model(client, f"strange-{len(text)}")
        write(other, "commit", "", "1")
        client.log_param(other._run, "00000002", text)
        with pytest.raises(SecurityError, match=said):
            other.entries()


def test_what_a_version_is_stands_beside_the_entries_once_and_for_all(client):
    ledger = model(client, "noted", 2)
    assert ledger.registered("1") is None
    ledger.note("1", "content 1", "")
    ledger.note("1", "content 1", "")
    assert Ledger(client, "noted").registered("1") == Registered(digest="content 1", code="")
    assert ledger.registered("2") is None and ledger.entries() == []
    for told in (("content 2", ""), ("content 1", "code")):
        with pytest.raises(SecurityError, match="another content or other code"):
            ledger.note("1", *told)


def test_what_the_ledger_says_of_a_version_is_not_believed_with_a_key_that_nobody_knows(client):
    ledger = model(client, "keys", 1)
    ledger.note("1", "content 1", "")
    client.log_param(ledger._run, ledgers._key("2"), json.dumps({"digest": "content 2", "code": "", "signed": "bob"}))
    with pytest.raises(SecurityError, match="Registered has no .signed."):
        ledger.registered("2")


def test_an_entry_holds_what_it_should_to_the_second_and_cannot_be_changed(client):
    ledger = model(client, "frozen")
    written = write(ledger, "commit", "", "1")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", written.at)
    judged = Judged(against="1", content="", verdict="certified")
    for told, name in ((written, "after"), (Registered(digest="d", code=""), "digest"), (judged, "verdict")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(told, name, "9")
    client.log_param(ledger._run, "00000002", json.dumps({**written.model_dump(), "number": 2, "signed": "bob"}))
    with pytest.raises(SecurityError, match="Entry has no 'signed'"):
        ledger.entries()


def test_an_entry_that_mlflow_refuses_is_not_taken_for_one_that_another_wrote(client):
    ledger = model(client, "refused")
    write(ledger, "commit", "", "1")
    client.delete_run(ledger._run)
    with pytest.raises(InputError, match="must be in the 'active' state"):
        ledger.append(2, kind="commit", action="promote", before="1", after="2", digest="", why="")


def test_a_ledger_that_cannot_be_begun_is_not_taken_for_one_that_another_began(client):
    ledger = model(client, "x" * 490)  # the name of its experiment is too long
    with pytest.raises(ConfigError, match="exceeds the maximum length of 500 characters"):
        write(ledger, "commit", "", "1")


def test_a_ledger_by_name_alone_may_be_as_old_as_its_model_and_no_older(client):
    ledger = model(client, "as-old")
    client.create_experiment("slimrec-ledger-as-old", tags={ledgers.RUN: "r"})
    ledger._born = client.get_experiment_by_name("slimrec-ledger-as-old").creation_time
    assert ledger._find() == "r"
    ledger._born += 1
    assert ledger._find() == ""


def test_of_two_ledgers_that_a_renamed_model_may_have_begun_none_is_taken(client):
    ledger = model(client, "unsure")
    for i, found in ((1, "r1"), (2, "")):
        client.create_experiment(f"slimrec-ledger-{ledger._born}-elsewhere-{i}", tags={ledgers.RUN: f"r{i}"})
        assert ledger._find() == found


def test_what_the_ledger_tells_of_a_version_is_its_content_and_what_made_it_champion(client):
    ledger = model(client, "tells", 2)
    assert registration.told("tells", "1") == {"content": None, "entries": []}
    ledger.note("1", "content 1", "code")
    for version in "12":
        write(ledger, "commit", "", version)
    first, second = (entry.model_dump() for entry in ledger.entries())
    assert registration.told("tells", "1") == {"content": {"digest": "content 1", "code": "code"}, "entries": [first]}
    assert registration.told("tells", "2") == {"content": None, "entries": [second]}


def test_the_last_judgement_on_a_version_counts_and_one_more_of_the_same_is_not_written(client):
    ledger = model(client, "judged", 2)
    assert ledger.judged("1") is None
    first, second = (Judged(against=against, content="c", verdict="certified") for against in ("", "2"))
    for told in (first, *[second, first] * 5):  # ten and more, in the order of numbers
        ledger.judge("1", told)
    ledger.judge("1", first)
    assert Ledger(client, "judged").judged("1") == first and ledger.judged("2") is None and ledger.entries() == []
    keys = [key for key in client.get_run(ledger._run).data.params if key.startswith("judged-")]
    assert sorted(keys) == [f"judged-1-000000{i:02d}" for i in range(1, 12)]
    client.log_param(ledger._run, "judged-1-00000012", json.dumps({**first.model_dump(), "signed": "bob"}))
    with pytest.raises(SecurityError, match="Judged has no 'signed'"):
        ledger.judged("1")


def test_what_tags_say_of_a_judgement_is_told_in_its_parts(client):
    model(client, "by-tags", 1)
    for tag, value in ((JUDGED, NONE), (JUDGED_DIGEST, "c"), (JUDGEMENT, "rejected")):
        client.set_model_version_tag("by-tags", "1", tag, value)
    told = versions.judgement(versions.read(client, "by-tags", "1"))
    assert told == Judged(against="", content="c", verdict="rejected")
    for tag in (JUDGED_DIGEST, JUDGEMENT):
        client.delete_model_version_tag("by-tags", "1", tag)
    assert versions.judgement(versions.read(client, "by-tags", "1")) == Judged(against="", content="", verdict="")
    client.delete_model_version_tag("by-tags", "1", JUDGED)
    assert versions.judgement(versions.read(client, "by-tags", "1")) is None


def test_what_was_forced_is_said_on_the_version_below_what_it_said_before(client):
    model(client, "marked", 2)
    client.update_model_version("marked", "1", description="it is worse")
    promotion._mark_forced(client, "marked", "1", "forced: because")
    promotion._mark_forced(client, "marked", "2", "forced: " + "x" * 2000)
    first, second = (client.get_model_version("marked", version) for version in "12")
    assert (first.description, first.tags["slimrec.forced"]) == (
        "it is worse\n\nPromoted, forced: because",
        "forced: because",
    )
    assert second.description == f"Promoted, forced: {'x' * 2000}"
    assert second.tags["slimrec.forced"] == f"forced: {'x' * 1992}"


def test_a_judgement_is_overtaken_by_another_champion_than_it_was_made_against_and_not_by_its_own_model(
    client, tmp_path
):
    with publish(tmp_path / "slim", "slim"):
        pass
    model(client, "overtakes", 2)
    client.set_model_version_tag("overtakes", "2", DIGEST, digest(tmp_path / "slim"))
    for champion, judged, overtaken in (
        ("", None, False),
        ("", {"version": "1", "digest": "content 1"}, True),
        ("1", None, True),
        ("1", {"version": "1", "digest": "content 1"}, False),
        ("1", {"version": "1", "digest": "another"}, True),
        ("1", {"version": "1"}, False),  # by 0.1.0, which told no digest
        ("1", {"version": "2", "digest": "content 1"}, True),
        ("1", {"version": "2"}, True),
        ("2", None, False),  # this one itself
        ("2", {"version": "1", "digest": "content 1"}, False),
        ("2", {"version": "2", "digest": "another"}, False),
    ):
        if champion:
            client.set_registered_model_alias("overtakes", CHAMPION, champion)
        assert rejudgement.overtaken("overtakes", tmp_path / "slim", {"champion": judged}) is overtaken


def test_a_model_that_is_its_champion_by_tag_but_not_by_ledger_is_overtaken(client, tmp_path):
    with publish(tmp_path / "slim", "slim"):
        pass
    ledger = model(client, "by-ledger", 1, "1")
    client.set_model_version_tag("by-ledger", "1", DIGEST, digest(tmp_path / "slim"))
    ledger.note("1", "content 1", "")
    assert rejudgement.overtaken("by-ledger", tmp_path / "slim", {"champion": None})


def test_the_run_that_is_a_ledger_says_of_which_model(client):
    ledger = model(client, "titled")
    write(ledger, "commit", "", "1")
    assert client.get_run(ledger._run).info.run_name == "ledger of titled"


def test_who_comes_second_to_begin_a_ledger_goes_on_in_the_first_and_leaves_no_run(client):
    first = model(client, "begun")
    second = Ledger(client, "begun")
    write(first, "commit", "", "1")
    assert write(second, "commit", "1", "2") is None  # number 1, which is taken: it had not looked
    assert second._run == first._run and len(second.entries()) == 1
    place = client.get_experiment_by_name(ledgers.RUNS).experiment_id
    (run,) = client.search_runs([place], f"tags.`{ledgers.RUN}` = 'begun'")
    assert run.info.run_id == first._run and run.info.status == "FINISHED"


def test_a_ledger_goes_along_with_a_model_that_is_renamed(client):
    write(model(client, "first-name"), "commit", "", "1")
    client.rename_registered_model("first-name", "second-name")
    assert [e.after for e in Ledger(client, "second-name").entries()] == ["1"]
    time.sleep(0.01)  # MLflow counts milliseconds
    assert model(client, "first-name").entries() == []


def test_a_ledger_whose_experiment_was_deleted_is_not_begun_anew(client):
    ledger = model(client, "thrown-away")
    write(ledger, "commit", "", "1")
    client.delete_experiment(client.get_experiment_by_name(ledger._place()).experiment_id)
    with pytest.raises(ConflictError, match="was deleted: restore it"):
        Ledger(client, "thrown-away")


@pytest.mark.parametrize("older", [False, True], ids=["of this model", "of a dead one of its name"])
def test_a_ledger_that_0_1_0_began_by_name_is_read_if_it_is_this_models(client, older):
    name = f"from-0-1-0-{older}"
    run = client.create_run(client.create_experiment(f"runs-{older}")).info.run_id
    client.log_param(run, "00000001", entry("commit promote 0 1").model_dump_json())
    if older:
        client.create_experiment(f"slimrec-ledger-{name}", tags={ledgers.RUN: run})
        time.sleep(0.01)  # MLflow counts milliseconds
        ledger = model(client, name)
    else:
        client.create_registered_model(name)
        client.create_experiment(f"slimrec-ledger-{name}", tags={ledgers.RUN: run})
        ledger = Ledger(client, name)
    assert [e.after for e in ledger.entries()] == ([] if older else ["1"])


def test_without_a_name_of_the_server_the_author_is_who_runs_the_process(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("LOGNAME", "bob")
    assert ledgers.author() == "bob"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # as in a container: a user without a name
    assert ledgers.author() == "user 54321"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert ledgers.author() == "ann"


def test_what_is_not_in_the_registry_is_nothing_and_what_is_there_says_what_it_is(client):
    model(client, "here", 1, champion="1")
    assert versions.version_at(client, "nowhere", CHAMPION) == "" == versions.born(client, "nowhere")
    assert versions.version_at(client, "here", CHAMPION) == "1" and versions.version_at(client, "here", "other") == ""
    assert versions.born(client, "here") == str(client.get_registered_model("here").creation_timestamp)
    assert versions.exists(client, "here", "1") and not versions.exists(client, "here", "2")
    assert (
        versions.content(client, "here", "1", None) == "content 1" and versions.content(client, "here", "2", None) == ""
    )
    assert versions.content(client, "here", "1", Registered(digest="as noted", code="")) == "as noted"
    assert versions.judged_against(versions.read(client, "here", "1")) is None
    for told, meant in ((NONE, ""), ("3", "3")):
        client.set_model_version_tag("here", "1", JUDGED, told)
        assert versions.judged_against(versions.read(client, "here", "1")) == meant
    with pytest.raises(InputError, match="'here' has no version 2; `slimrec history here`"):
        versions.read(client, "here", "2")


def test_a_question_that_the_registry_refuses_is_not_taken_for_nothing_there(client):
    with pytest.raises(ConfigError, match="refused: Parameter 'version' must be an integer"):
        versions.exists(client, "here", "one")


def test_a_version_of_no_run_has_nothing_beside_it(client, tmp_path):
    model(client, "runless", 1)
    assert versions.audit_file(client, "runless", "1", "selection.json", tmp_path) is None


def test_of_versions_with_the_same_content_the_oldest_counts_by_number_and_not_by_spelling(client):
    model(client, "ten", 10)
    for version in ("9", "10"):
        client.set_model_version_tag("ten", version, DIGEST, "alike")
    assert registration._version_of(client, "ten", "alike") == "9"
    assert registration._version_of(client, "ten", "unlike") is None


def test_a_version_that_0_1_0_made_is_not_written_down_as_one_without_code(client):
    ledger = model(client, "old", 1)
    registration._note(client, "old", "1")
    assert ledger.registered("1") is None
    client.set_model_version_tag("old", "1", versions.CODE, "")
    registration._note(client, "old", "1")
    assert Ledger(client, "old").registered("1") == Registered(digest="content 1", code="")


def test_in_a_registry_of_nothing_no_other_name_is_proposed(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.empty_store(tmp_path / "empty"))
    with pytest.raises(InputError, match="no model 'any'; it is empty"):
        versions.connect("any")


def test_without_a_registry_the_variable_to_set_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI"):
        versions.connect("any")
