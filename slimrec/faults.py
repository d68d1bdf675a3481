"""What others raise (the system, MLflow, its database, an object store), sorted into our exit classes, with the remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from slimrec.errors import ConfigError, InputError, SlimrecError, TransientError

FULL = {errno.ENOSPC, errno.EDQUOT}
# What heals by itself, or when somebody makes room. Every other errno says that the address or the rights are wrong.
_HEALING = FULL | {
    *(errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETXTBSY, errno.EDEADLK, errno.ENOLCK, errno.ESTALE, errno.EIO),
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EREMOTEIO, errno.ECANCELED),
    *(errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EADDRINUSE),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN),
    *(errno.ESHUTDOWN, errno.EPROTO, errno.ENOTRECOVERABLE, errno.EOWNERDEAD),
}
_UNRESOLVED = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5)}  # there is no such host; EAI_AGAIN is an outage
_REMEDY = {
    errno.ENOENT: "give a path that is there, or make the folder first",
    errno.ENOTDIR: "a file stands where a folder is meant: give another path",
    errno.EISDIR: "a folder stands where a file is meant: give another path",
    errno.EACCES: "grant this user the right, or give another path",
    errno.EPERM: "grant this user the right, or give another path",
    errno.EROFS: "what is mounted there can only be read: give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EEXIST: "something is there already: give another path",
}
# MLflow's own codes, and those that it gives what it does not understand.
_MLFLOW_HEALS = {
    *("TEMPORARILY_UNAVAILABLE", "WORKSPACE_TEMPORARILY_UNAVAILABLE", "SERVICE_UNDER_MAINTENANCE", "INTERNAL_ERROR"),
    *("IO_ERROR", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED", "ABORTED"),
    *("RESOURCE_CONFLICT", "COULD_NOT_ACQUIRE_LOCK", "UNPARSEABLE_HTTP_ERROR", "RESOURCE_ALREADY_EXISTS"),
}
_MLFLOW_DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}
_MLFLOW_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_HTTP_HEALS = {408, 409, 423, 425, 429}  # of the codes from 400 to 499
# Codes of object stores, as boto3 raises them.
DENIED = {
    *(
        "AccessDenied",
        "403",
        "Forbidden",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
    ),
    *("AuthorizationHeaderMalformed", "AllAccessDisabled", "AccountProblem", "TokenRefreshRequired", "401"),
}
MISSING = {"NoSuchKey", "NoSuchBucket", "404", "InvalidBucketName", "PermanentRedirect"}
_AGAIN = "check the server, run again"
_LOG_IN = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and that user's rights"
_CERTIFICATE = "check http or https in the address, and the certificate (REQUESTS_CA_BUNDLE)"
# Errors of clients, by name: an address, a header or a setting is wrong, and stays so.
_WRONGLY_SET = {
    *("InvalidURL", "MissingSchema", "InvalidSchema", "LocationParseError", "LocationValueError", "InvalidProxyURL"),
    *("InvalidHeader", "TooManyRedirects", "ArgumentError", "NoSuchModuleError"),
}
# What boto3 and botocore raise that heals, by the names of classes; all else that they raise is a setting.
_STORE_HEALS = {
    *("HTTPClientError", "ConnectionError", "ClientError", "IncompleteReadError", "ChecksumError", "WaiterError"),
    *("FlexibleChecksumError", "AwsChunkedWrapperError", "CredentialRetrievalError", "TokenRetrievalError"),
    *("MetadataRetrievalError", "CapacityNotAvailableError", "Boto3Error"),
}
_CLIENTS = {"mlflow", "requests", "urllib3", "urllib", "http", "sqlalchemy", "botocore", "boto3"}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")  # user:password@ in a URL; a password may hold an @
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:key|token|secret|signature|password)[^=&\s]*=)[^&\s]+")
_HEADER = re.compile(r"""(?i)(['"](?:bearer|basic) )[^'"]*""")  # a token that was refused as it stands
# What a database or MLflow says in words only, the first that fits: pattern, whether it heals, remedy.
_WORDS: tuple[tuple[str, bool, str], ...] = (
    (
        r"is locked|deadlock|disk I/O error|too many (connections|clients)|starting up|shutting down|recovery mode",
        True,
        "",
    ),
    (r"closed the connection|connection (refused|reset|timed out)|could not connect|terminating connection", True, ""),
    (r"database or disk is full|No space left", True, "make room where the database lies"),
    (r"Can't locate revision", False, "a newer MLflow made this database: use that version, or another database"),
    (
        r"out-of-date database schema|db upgrade|no such (table|column)|relation \S+ does not exist|Undefined(Table|Column)",
        False,
        "an older MLflow made this database: back it up, then `mlflow db upgrade ADDRESS`, or use a new one",
    ),
    (r"unable to open database file", False, "give sqlite:///PATH of a file in a folder that can be written to"),
    (r"file is not a database|image is malformed", False, "what lies there is no SQLite database: give another file"),
    (r"readonly database|read-only", False, "grant this user the right to write there, or give another database"),
    (r"maintenance mode", False, "a folder is no store any more: give sqlite:///PATH/mlflow.db or a server's http://"),
    (r"unsupported URI", False, "give sqlite:///PATH/mlflow.db, or the http:// or https:// address of a server"),
    (r"authentication failed|no pg_hba|[Aa]ccess denied for user", False, "check user and password of the database"),
    (r"(role|database) \S+ does not exist|Unknown database", False, "check user and name of the database"),
    (r"value too long|[Dd]ata too long|exceeds the maximum length", False, "give a shorter name"),
    (r"not in a valid JSON format", False, "what answers there is no MLflow server: check the address in {setting}"),
    (r"Could not parse SQLAlchemy URL", False, "give sqlite:///PATH/mlflow.db, or the address of a server"),
    (r"Could not find (a suitable TLS|the TLS)", False, _CERTIFICATE),
    (r"in the 'active' state|deleted state|state is deleted", False, "restore it in MLflow, or use another name"),
    (r"[Dd]atabricks|Unity Catalog", False, "check the address in {setting}"),
    (r"'?(AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken)\b", False, "check the AWS credentials"),
    (r"\b(NoSuchBucket|NoSuchKey)\b", False, "what MLflow keeps there is gone: check its artifact store"),
)


def sort(
    error: Exception, where: str = "", places: Iterable[str | os.PathLike] = (), setting: str = "MLFLOW_TRACKING_URI"
) -> SlimrecError | None:
    """What an error of others means to a person; None for one that is nobody's but our own.

    10 or 20 where only another input, address, name or right helps, 30 where it heals by itself. `where` says whom we
    asked (an address without credentials), `setting` what names that address, `places` which folders were written to,
    for a disk that is full.
    """
    if isinstance(error, SlimrecError):
        return error
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, UnicodeEncodeError):
            return _not_writable(each)
    if found := next((each for each in chain if _of_server(each)), None):
        return _server(found, chain, where or "what was asked", setting)
    system = next((each for each in map(_system, chain) if each is not None), None)
    return None if system is None else of_system(system, places)


def _not_writable(error: UnicodeEncodeError) -> SlimrecError:
    """Text that an encoding has no place for: that of names of files and words of a command, or that of the screen."""
    of_system, names = error.reason == "surrogates not allowed", sys.getfilesystemencoding()
    if of_system and names == "utf-8":
        return InputError(f"{ascii(error.object)[:300]} is not UTF-8; rename that file or folder")
    text, encoding = (error.object, names) if of_system else (error.object[error.start : error.end], error.encoding)
    return ConfigError(
        f"{ascii(text)[:300]} has no place in {encoding}, the encoding of this locale or of standard output; set "
        "PYTHONUTF8=1, or a locale such as C.UTF-8"
    )


def of_system(error: OSError, places: Iterable[str | os.PathLike] = ()) -> SlimrecError:
    """An OSError by its errno."""
    said = _words(error)
    if isinstance(error, ssl.SSLError):
        return _tls(error, said)
    if isinstance(error, socket.gaierror) and error.errno in _UNRESOLVED:
        return ConfigError(f"there is no such host: {said}; check the address")
    if error.errno in FULL:
        return TransientError(f"no space left: {said}; {_room(error.filename, places)}: make room, run again")
    if heals(error):
        return TransientError(f"{said}; run it again")
    return ConfigError(f"{said}; {_REMEDY.get(error.errno, 'give another path')}")


def heals(error: OSError) -> bool:
    """Whether the same call may go well later."""
    if error.errno is None or isinstance(error, socket.gaierror):  # of libraries: timeouts, connections that broke off
        return not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    return error.errno in _HEALING


def is_full(error: BaseException) -> bool:
    """Whether an error came from a disk without room."""
    return any(system.errno in FULL for system in map(_system, _chain(error)) if system is not None)


def is_unresolved(error: BaseException) -> bool:
    """Whether an error came from the name of a host that there is not, which no waiting makes one."""
    return any(isinstance(each, socket.gaierror) and each.errno in _UNRESOLVED for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _system(error: BaseException) -> OSError | None:
    """The error as one of the system; safetensors puts the system's number into words."""
    if isinstance(error, OSError):
        return error
    if type(error).__module__.startswith("safetensors") and (number := re.search(r"os error (\d+)", str(error))):
        return OSError(int(number[1]), str(error))
    return None


def _of_server(error: BaseException) -> bool:
    return _top(type(error).__module__) in _CLIENTS or _lacks_package(error) or _is_refused_value(error)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_refused_value(error: BaseException) -> bool:
    """Whether a client refused a value, as botocore does an endpoint without a scheme: an error of no class of theirs."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return isinstance(error, ValueError) and at is not None and _top(at.tb_frame.f_globals["__name__"]) in _CLIENTS


def _lacks_package(error: BaseException) -> bool:
    return isinstance(error, ModuleNotFoundError) and not (error.name or "slimrec").startswith("slimrec")


def _server(error: BaseException, chain: list[BaseException], where: str, setting: str) -> SlimrecError:
    said, address = _words(error), f"check the address in {setting}"

    def bad(kind: type[SlimrecError], remedy: str) -> SlimrecError:
        return kind(f"{where} refused: {said}; {remedy}")

    if isinstance(error, ModuleNotFoundError):
        return ConfigError(f"{where} needs the package '{error.name}': install it")
    for pattern, healing, remedy in _WORDS:
        if re.search(pattern, said):
            kind = InputError if "'active'" in pattern else ConfigError
            remedy = remedy.format(setting=setting) or _AGAIN
            return TransientError(f"{where} failed: {said}; {remedy}") if healing else bad(kind, remedy)
    if code := next((_store_code(each) for each in chain if _store_code(each)), ""):
        if code in DENIED:
            return bad(InputError, f"check the AWS credentials and rights ({code})")
        if code in MISSING:
            return bad(InputError, f"check the address ({code})")
    if is_unresolved(error):
        return bad(ConfigError, f"there is no such host: {address}")
    for each in chain:
        if isinstance(each, ssl.SSLError):
            return _tls(each, f"{where} failed: {said}")
        if type(each).__name__ in _WRONGLY_SET:
            return bad(ConfigError, address)
        if isinstance(each, OverflowError | UnicodeError):
            return bad(InputError, "give another value")
        if _is_refused_value(each) or _is_stores_setting(each):
            return bad(ConfigError, "check that address or setting in the environment")
    return _by_code(error, said, where, address, bad)


def _is_stores_setting(error: BaseException) -> bool:
    """Whether boto3 or botocore refused what it was told, before or without asking a store."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return _top(type(error).__module__) in ("botocore", "boto3") and not names & _STORE_HEALS


def _by_code(error: BaseException, said: str, where: str, address: str, bad) -> SlimrecError:
    """By MLflow's code, or that of HTTP."""
    code = getattr(error, "error_code", "INTERNAL_ERROR")
    http = re.search(r"failed with error code (\d{3})", said)
    refused = http is not None and 300 <= int(http[1]) < 500 and int(http[1]) not in _HTTP_HEALS
    if _is_of_another(error):
        return bad(ConfigError, f"that is no answer of MLflow's, maybe of what stands before it: {address}; {_LOG_IN}")
    if code in _MLFLOW_DENIED or (http and http[1] in ("401", "403", "407")):
        return bad(ConfigError, _LOG_IN)
    if code in _MLFLOW_MISSING:
        return bad(InputError, "it was deleted or never there: restore it in MLflow, or name another")
    if code == "ENDPOINT_NOT_FOUND" or (refused and code == "INTERNAL_ERROR"):
        return bad(ConfigError, f"what answers there is no MLflow server of a version that we know: {address}")
    if code in _MLFLOW_HEALS and not refused:
        return TransientError(f"{where} failed: {said}; {_AGAIN}")
    return bad(ConfigError, "change what it names")


def _is_of_another(error: BaseException) -> bool:
    """Whether a JSON answer carries no code of MLflow's. (429 and those from 500 on are tried again by MLflow itself, and
    come as words: what comes as JSON is a refusal.)
    """
    told = getattr(error, "json", None)
    unknown = getattr(error, "error_code", "") == "INTERNAL_ERROR"  # what MLflow's client makes of a code it lacks
    return unknown and isinstance(told, dict) and told.get("error_code") != "INTERNAL_ERROR"


def _store_code(error: BaseException) -> str:
    """The code that an object store gave, "" for none; `NoCredentials` counts as one."""
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return "401"
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _tls(error: ssl.SSLError, said: str) -> SlimrecError:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "timed out" in said:
        return TransientError(f"{said}; {_AGAIN}")
    return ConfigError(f"{said}; {_CERTIFICATE}")


def _room(name: str | None, places: Iterable[str | os.PathLike]) -> str:
    """How many bytes are free where it was written to: the fullest of the places, where the error names none."""
    asked = [Path(os.fsdecode(name))] if name else [*map(Path, places), Path(tempfile.gettempdir())]
    there = {next(each for each in (path.absolute(), *path.absolute().parents) if each.exists()) for path in asked}
    free, place = min((shutil.disk_usage(path).free, str(path)) for path in there)
    return f"{free} bytes are free at {place}"


def _words(error: BaseException) -> str:
    """What the error says, on one line, without credentials."""
    return redact(" ".join(str(error).split()))[:500] or type(error).__name__


def attempts() -> int:
    """How often an object store is asked one thing, with growing pauses: AWS_MAX_ATTEMPTS, 6 without it."""
    told = os.environ.get("AWS_MAX_ATTEMPTS", "6")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", told):
        raise ConfigError(f"AWS_MAX_ATTEMPTS is '{told}'; give how often a store may be asked, 1 or more")
    return int(told)


def redact(value: Any) -> str:
    """The value as text, without credentials in URLs and in headers."""
    return _HEADER.sub(r"\1***", _SECRET_QUERY.sub(r"\1***", _CREDENTIALS.sub("***@", str(value))))
