"""The audit bundle: replayed offline from one file, refused for any changed byte, by the wrong key, and where it contradicts itself."""

import base64
import copy
import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import small
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import ValidationError
from services import HANG
from test_house import run_without
from typer.testing import CliRunner

from slimrec.artifacts import digest, read_json
from slimrec.artifacts.envelope import KEY, KEY_FILE, own_key, public_key, seal, unseal
from slimrec.cli import main
from slimrec.config import EvaluateConfig, RegisterConfig
from slimrec.errors import ConfigError, InputError, SecurityError
from slimrec.registry import bundle
from slimrec.stages import evaluate, register
from slimrec.track import Tracker


def pair(folder, name, key=None):
    """A private key and its public half as PEM files."""
    key = key or Ed25519PrivateKey.generate()
    paths = folder / f"{name}.pem", folder / f"{name}.public.pem"
    paths[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths[1].write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: pair(folder, name) for name in ("ours", "strange")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The artifacts of a refused audit, and what makes its bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    made = small.make(folder)
    paths = {n: getattr(made, n) for n in ("dataset", "slim", "full", "selection")}
    config = EvaluateConfig(allowed_auc_loss=0.0, latency_repeats=1, slices=["device", "price"])
    evaluate.run(config, Tracker(), **paths, report=folder / "report")
    return {"slim": made.slim, "report": folder / "report", "selection": made.selection}


def write(world, target):
    register.run(RegisterConfig(name="ctr"), Tracker(), **world, bundle=target)
    return target / bundle.FILE


@pytest.fixture(scope="module")
def signed(world, keys, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_FILE, str(keys["ours"][0]))
        return write(world, tmp_path_factory.mktemp("signed") / "bundle")


@pytest.fixture(scope="module")
def unsigned(world, tmp_path_factory):
    return write(world, tmp_path_factory.mktemp("unsigned") / "bundle")


def test_a_replay_comes_to_the_verdict_and_the_interval_of_the_report(world, signed, keys):
    found, report = bundle.verify(signed, keys["ours"][1]), read_json(world["report"] / "report.json")
    assert (found.verdict, found.reason) == (report["verdict"], report["reason"])
    assert found.low == pytest.approx(report["auc"]["low"], abs=1e-12)
    assert found.high == pytest.approx(report["auc"]["high"], abs=1e-12)
    assert found.audit.report == report and found.digests["slim"] == digest(world["slim"])
    assert found.digests["dataset"] == report["dataset"]


def test_every_flipped_byte_of_two_hundred_is_refused_signed_or_not(signed, unsigned, keys, tmp_path):
    random = np.random.default_rng(0)
    for source, checked in ((signed, {"key": keys["ours"][1]}), (unsigned, {"unsigned": True})):
        content, spoilt = source.read_bytes(), tmp_path / "spoilt.json"
        places = [0, len(content) - 1, len(content) - 2, *random.integers(0, len(content), 197).tolist()]
        places[3:10] = [len(content) - back for back in range(3, 10)]  # of the signature
        for place in places:
            byte = content[place] ^ (1 << int(random.integers(8)))
            spoilt.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            with pytest.raises(SecurityError):
                bundle.verify(spoilt, **checked)


@pytest.mark.battery
def test_every_bit_of_the_signature_counts(signed, keys, tmp_path):
    content, spoilt = signed.read_bytes(), tmp_path / "spoilt.json"
    for bit in range(8 * (len(content) - 110), 8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        spoilt.write_bytes(changed)
        with pytest.raises(SecurityError):
            unseal(spoilt, public_key(keys["ours"][1]))


def test_a_byte_more_or_less_is_refused(signed, keys, tmp_path):
    content = signed.read_bytes()
    for number, spoilt in enumerate((content + b"\n", content[:-1], b" " + content, content[: len(content) // 2], b"")):
        (tmp_path / f"{number}").write_bytes(spoilt)
        with pytest.raises(SecurityError):
            bundle.verify(tmp_path / f"{number}", keys["ours"][1])


def test_another_spelling_of_the_same_json_or_base64_is_refused(signed, keys, tmp_path):
    envelope, other = json.loads(signed.read_text()), tmp_path / "other.json"
    payload = base64.b64decode(envelope["payload"])
    line = envelope["payload"]
    for changed in (
        json.dumps(envelope),
        json.dumps({**envelope, "more": 1}, separators=(",", ":"), sort_keys=True) + "\n",
        signed.read_text().replace(line, line[:76] + "\\n" + line[76:]),
        signed.read_text().replace(line, base64.b64encode(b" " + payload).decode()),
    ):
        other.write_text(changed)
        with pytest.raises(SecurityError):
            bundle.verify(other, keys["ours"][1])


def test_the_wrong_key_no_key_and_no_signature_are_refused(signed, unsigned, keys):
    with pytest.raises(SecurityError, match="is signed by the key"):
        bundle.verify(signed, keys["strange"][1])
    who = json.loads(signed.read_text())["signatures"][0]["keyid"]
    with pytest.raises(SecurityError, match=f"is signed by the key {who[:16]}: give its public half"):
        bundle.verify(signed)
    with pytest.raises(SecurityError, match="signed by nobody; --unsigned"):
        bundle.verify(unsigned)
    with pytest.raises(SecurityError, match="is signed by nobody"):
        bundle.verify(unsigned, keys["ours"][1], unsigned=True)
    assert bundle.verify(unsigned, unsigned=True).signer == "" == bundle.verify(signed, unsigned=True).signer


def test_a_signature_of_a_strange_key_under_our_keys_name_is_refused(signed, keys, tmp_path, monkeypatch):
    envelope = json.loads(signed.read_text())
    monkeypatch.setenv(KEY_FILE, str(keys["strange"][0]))
    strange = json.loads(seal(unseal(signed, None)[0], own_key()))
    envelope["signatures"][0]["sig"] = strange["signatures"][0]["sig"]
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(envelope, separators=(",", ":"), sort_keys=True) + "\n")
    with pytest.raises(SecurityError, match="a signature that is not its own"):
        bundle.verify(forged, keys["ours"][1])


def test_openssl_agrees_that_the_signature_is_one_of_dsse(signed, keys, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    envelope = json.loads(signed.read_text())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    (tmp_path / "said").write_bytes(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys["ours"][1], "-rawin"]
    words += ["-in", tmp_path / "said", "-sigfile", tmp_path / "signature"]
    assert subprocess.run(words, capture_output=True, timeout=HANG, check=False).returncode == 0
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", keys["ours"][1], "-outform", "DER"], capture_output=True, check=True
    )
    assert envelope["signatures"][0]["keyid"] == hashlib.sha256(der.stdout).hexdigest()


def test_the_same_audit_makes_the_same_bytes(world, signed, keys, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_FILE, str(keys["ours"][0]))
    assert write(world, tmp_path / "again").read_bytes() == signed.read_bytes()


def spoil_low(audit):
    audit["report"]["auc"]["low"] += 1e-9


def spoil_verdict(audit):
    audit["report"].update(verdict="certified", decision="accept")


def spoil_sketch(audit):
    audit["sketch"]["whole"]["folds"]["second"][0] *= 2


def spoil_slice(audit):
    next(part for part in audit["report"]["slices"] if part["high"] is not None)["high"] += 1e-9


def spoil_loss(audit):
    audit["report"]["losses"][0]["most"] += 1e-9


def spoil_limit(audit):
    audit["sketch"]["losses"][0]["allowed"] = 1.0


def spoil_model(audit):
    audit["report"]["slim_digest"] = "0" * 64


def spoil_selection(audit):
    next(field for field in audit["selection"]["fields"].values() if field["columns"])["columns"] = []


def spoil_registry(audit):
    audit["registry"]["registered"] = True


def spoil_files(audit):
    next(iter(audit["manifests"]["slim"]["files"].values()))["sha256"] = "0" * 64


def spoil_ledger(audit):
    audit["registry"]["content"] = {"digest": "0" * 64, "code": ""}


def spoil_more(audit):
    audit["more"] = 1


def spoil_decision(audit):
    audit["report"]["decision"] = "accept"


def spoil_outcome(audit):
    audit["report"]["verdict"] = "inconclusive"


def spoil_keys(audit):
    audit["report"]["slices"][0]["more"] = 1


def spoil_shape(audit):
    audit["report"]["auc"] = None


@pytest.mark.parametrize("spoil", [spoil_low, spoil_verdict, spoil_sketch, spoil_slice, spoil_loss, spoil_limit, spoil_model, spoil_selection, spoil_registry, spoil_ledger, spoil_more,
                                   spoil_files, spoil_shape])  # fmt: skip
def test_what_contradicts_itself_is_refused_even_where_it_is_signed(spoil, signed, keys, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_FILE, str(keys["ours"][0]))
    statement, lying = copy.deepcopy(unseal(signed, None)[0]), tmp_path / "lying.json"
    spoil(statement["predicate"])
    lying.write_bytes(seal(statement, own_key()))
    with pytest.raises(SecurityError):
        bundle.verify(lying, keys["ours"][1])


def bound_again(statement):
    """Every digest made to fit what the audit says now."""
    audit = statement["predicate"]
    bound = hashlib.sha256((json.dumps(audit["report"], indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    audit["manifests"]["report"]["files"]["report.json"]["sha256"] = bound.hexdigest()
    for subject, value in zip(statement["subject"], bundle._digests(audit).values(), strict=True):
        subject["digest"]["sha256"] = value


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_low, "the figure 'low'"),
        (spoil_slice, "the slices of"),
        (spoil_keys, "the slices of"),
        (spoil_loss, "the losses of 'log_loss'"),
        (spoil_verdict, "the verdict"),
        (spoil_decision, "the verdict"),
        (spoil_outcome, "the verdict"),
    ],
)
def test_a_verdict_that_the_figures_do_not_give_is_refused_though_every_digest_fits(
    spoil, words, signed, keys, tmp_path, monkeypatch
):
    monkeypatch.setenv(KEY_FILE, str(keys["ours"][0]))
    statement, lying = copy.deepcopy(unseal(signed, None)[0]), tmp_path / "lying.json"
    spoil(statement["predicate"])
    bound_again(statement)
    lying.write_bytes(seal(statement, own_key()))
    with pytest.raises(SecurityError, match=f"contradicts itself about {words}"):
        bundle.verify(lying, keys["ours"][1])


LEAK = {"kind": "alone", "name": "device", "figure": 0.9999, "said": "field 'device' gives the label away"}


def test_a_leak_counts_for_the_label_that_it_gives_away(unsigned):
    statement = unseal(unsigned, None)[0]
    for task, counts in (("", True), ("another", False)):
        statement["predicate"]["report"]["leaks"] = [{**LEAK, "task": task}]
        bound_again(statement)
        assert (LEAK["said"] in bundle._replay(statement, "").reason) == counts


def test_a_statement_with_a_word_more_is_refused_and_what_was_replayed_cannot_be_changed(unsigned):
    statement = unseal(unsigned, None)[0]
    replay = bundle._replay(statement, "")
    with pytest.raises(SecurityError, match="Statement has no 'more'"):
        bundle._replay({**statement, "more": 1}, "")
    for told, name in ((replay, "signer"), (replay.audit, "code"), (bundle.Statement(**statement), "subject")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(told, name, "another")


@pytest.mark.parametrize(
    ("found", "told", "same"),
    [
        (0.0, 1e-12, True),
        (0.0, -1e-12, True),
        (0.0, 1.5e-12, False),
        (0.5, 0.5 + 0.9e-12, True),
        (0.5, 0.5 + 1.2e-12, False),
        (1e6, 1e6 + 0.9e-6, True),
        (1e6, 1e6 + 1.2e-6, False),
        (-1e6, -1e6 - 0.9e-6, True),
        (1.0, 1, True),
        (0.5, None, False),
        (None, 0.5, False),
        (None, None, True),
        (3, 3.0000000000001, False),
        (3, 3, True),
        ("a", "b", False),
    ],
)
def test_figures_are_the_same_within_a_trillionth_and_words_and_counts_to_the_letter(found, told, same):
    assert bundle._same(found, told) is same


def test_a_person_reads_what_was_signed_replayed_and_registered(unsigned):
    replay = bundle.verify(unsigned, unsigned=True)
    report = replay.audit.report
    parts = len(replay.audit.software["components"])
    wanted = [
        "signature not checked: anybody may have written this",
        f"replayed  rejected: {report['reason']}",
        "registry  nothing registered",
        *(f"{name}{' ' * (10 - len(name))}{value}" for name, value in replay.digests.items()),
        f"code      slimrec {replay.audit.code}, replayed by {replay.audit.code}",
        "image     none",
        f"software  {parts} components",
    ]
    assert bundle.told(replay) == wanted and parts > 10
    place = {"model": "ctr", "version": "3", "registered": True}
    audit = replay.audit.model_copy(update={"registry": place, "image": "slimrec@sha256:1"})
    told = bundle.told(replay.model_copy(update={"signer": "f" * 64, "audit": audit}))
    assert told[0] == f"signature by the key {'f' * 64}" and told[2] == "registry  ctr version 3"
    assert told[-2] == "image     slimrec@sha256:1"


def test_the_manifest_of_a_bundle_says_of_which_model_it_is_and_whether_it_is_signed(world, signed, unsigned):
    for file, said in ((signed, True), (unsigned, False)):
        manifest = read_json(file.with_name("manifest.json"))
        assert (manifest["kind"], manifest["slim"], manifest["signed"]) == ("bundle", digest(world["slim"]), said)


def test_verify_takes_neither_torch_nor_mlflow_nor_kfp(signed, keys):
    words = ["verify", str(signed), "--key", str(keys["ours"][1])]
    done = run_without(("torch", "mlflow", "kfp", "pandas"), f"from slimrec.cli import main\nmain({words!r})")
    assert done.returncode == 0, done.stderr
    assert "signature by the key" in done.stdout and "replayed  " in done.stdout


def cli(*words):
    from slimrec.cli import app

    return CliRunner().invoke(app, [str(word) for word in words])


def ended(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def test_the_command_refuses_with_60_and_takes_file_and_folder(signed, unsigned, keys, world, capsys):
    for bundled in (signed, signed.parent):
        assert "signature by the key" in cli("verify", bundled, "--key", keys["ours"][1]).output
    assert ended("verify", unsigned) == 60 and ended("verify", signed) == 60
    assert ended("verify", signed, "--key", keys["strange"][1]) == 60
    assert ended("verify", world["slim"], "--unsigned") == 20
    assert ended("verify", signed, "--key", keys["ours"][0]) == 20
    assert ended("verify", signed.with_name("nothing.json"), "--unsigned") == 10
    assert "not checked" in cli("verify", unsigned, "--unsigned").output
    assert cli("verify", world["slim"]).output == f"slim {digest(world['slim'])}\n"


def test_a_key_that_cannot_sign_is_refused_without_a_word_of_it(tmp_path, monkeypatch, keys):
    (tmp_path / "no.pem").write_text("hush hush\n")
    pair(tmp_path, "curve", generate_private_key(SECP256R1()))
    for path, words in (("no.pem", "no private key"), ("curve.pem", "not an Ed25519"), ("gone.pem", "cannot read")):
        monkeypatch.setenv(KEY_FILE, str(tmp_path / path))
        with pytest.raises(ConfigError, match=words) as refused:
            own_key()
        assert "hush" not in str(refused.value)
    monkeypatch.delenv(KEY_FILE)
    assert own_key() is None
    monkeypatch.setenv(KEY, keys["ours"][0].read_text())
    assert own_key() is not None


def test_a_file_too_large_is_not_even_read(tmp_path, monkeypatch):
    large = tmp_path / "large.json"
    with large.open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    with pytest.raises(SecurityError, match="larger than 64 MiB"):
        bundle.verify(large, unsigned=True)
    with pytest.raises(InputError, match="cannot read"):
        bundle.verify(tmp_path / "nothing", unsigned=True)


def test_a_bundle_names_its_software_and_not_its_key(signed, keys):
    payload = base64.b64decode(json.loads(signed.read_text())["payload"]).decode()
    found = bundle.verify(signed, keys["ours"][1]).audit
    assert {"numpy", "scipy", "cryptography"} <= {part["name"] for part in found.software["components"]}
    assert found.code.startswith("0.") and found.registry["model"] == "ctr"
    assert keys["ours"][0].read_text().splitlines()[1] not in payload
