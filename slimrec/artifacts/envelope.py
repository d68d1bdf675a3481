"""One file that vouches for itself: JSON in a DSSE envelope, signed with an Ed25519 key of one's own, every byte of it checked.

DSSE (Dead Simple Signing Envelope 1.0) is what cosign and in-toto sign: other tools than ours can check it. There is one
form for one content, so that no byte of a file is without a meaning that is checked; a SHA-256 beside the content tells
damage in a file that nobody signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from slimrec.errors import ConfigError, InputError, SecurityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

TYPE = "application/vnd.in-toto+json"
LARGEST = 64 << 20  # bytes of a file
KEY_FILE, KEY = "SLIMREC_SIGNING_KEY_FILE", "SLIMREC_SIGNING_KEY"  # a PEM file; or its content, as a secret brings it
_MAKE = "openssl genpkey -algorithm ed25519 -out key.pem"


def own_key() -> Ed25519PrivateKey | None:
    """The key that the environment names, None where it names none. Raises ConfigError for one that cannot sign."""
    path = os.environ.get(KEY_FILE, "")
    content = _content(Path(path), ConfigError) if path else os.environ.get(KEY, "").encode()
    if not content:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where = KEY_FILE if path else KEY
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise ConfigError(
            f"the key of {where} asks for a password; give one that is kept safe without: {_MAKE}"
        ) from None
    except ValueError:
        raise ConfigError(f"{where} holds no private key in PEM; make one: {_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the key of {where} is not an Ed25519 one; make one: {_MAKE}")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file; ConfigError where it is none of Ed25519."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_content(path, InputError))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"{path} holds no public Ed25519 key in PEM: openssl pkey -in key.pem -pubout -out public.pem"
        )
    return key


def seal(statement: dict[str, Any], key: Ed25519PrivateKey | None) -> bytes:
    """The file of a statement, the same bytes each time; without a key nobody signs it."""
    payload = _one_form(statement)
    signatures = []
    if key is not None:
        signature = base64.b64encode(key.sign(_signed(payload))).decode()
        signatures.append({"keyid": key_id(key.public_key()), "sig": signature})
    return _one_form(_envelope(payload, signatures)) + b"\n"


def unseal(path: Path, key: Ed25519PublicKey | None) -> tuple[dict[str, Any], str]:
    """The statement in a file, and the id of the key that signed it, "" where none did.

    With a key, its signature is required. Raises SecurityError for all that `seal` would not have written.
    """
    from cryptography.exceptions import InvalidSignature

    content = _content(path, InputError)
    envelope = _parsed(content.removesuffix(b"\n"), path)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"] or [None]
        signed = signature is not None
        own = base64.b64decode(signature["sig"], validate=True) if signed else b""  # base64 has spellings of its own
        signatures = [{"keyid": str(signature["keyid"]), "sig": base64.b64encode(own).decode()}] if signed else []
    except (KeyError, TypeError, ValueError):
        _refuse(path, "is no envelope of a bundle")
    if _one_form(_envelope(payload, signatures)) + b"\n" != content:
        _refuse(path, "is not as it was written: bytes of it were changed")
    if key is not None:
        if not signed:
            _refuse(path, "is signed by nobody")
        if signature["keyid"] != key_id(key):
            _refuse(path, f"is signed by the key {signature['keyid'][:16]}, not by {key_id(key)[:16]}")
        try:
            key.verify(own, _signed(payload))
        except (InvalidSignature, ValueError):
            _refuse(path, "bears a signature that is not its own")
    return _parsed(payload, path), signature["keyid"] if signed else ""


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of a public key, as `openssl pkey -pubin -in public.pem -outform DER | sha256sum` says it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _envelope(payload: bytes, signatures: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": TYPE,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "signatures": signatures,
    }


def _signed(payload: bytes) -> bytes:
    """What DSSE signs: the type too, and the length of each."""
    return b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)


def _one_form(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    """JSON in its one form: no key twice, no NaN, no other spelling."""
    try:
        values = json.loads(content)
        if isinstance(values, dict) and _one_form(values) == content:
            return values
    except (ValueError, RecursionError):
        _refuse(path, "is not JSON")
    _refuse(path, "is not JSON in the form that slimrec writes")


def _content(path: Path, missing: type[Exception]) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise missing(f"cannot read {path}: {error.strerror}") from None
    if len(content) > LARGEST:
        raise SecurityError(f"{path} is larger than {LARGEST >> 20} MiB: no file of ours is")
    return content


def _refuse(path: Path, why: str) -> NoReturn:
    raise SecurityError(f"{path} {why}; do not use it, and ask for it anew from whom it came")
