"""One frozen Settings object, resolved once: flag > environment > context in the file > default.

Every setting knows its origin, which ``saltctl config show`` prints. Nothing here connects to a server.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from saltctl.errors import ConfigurationError
from saltctl.forks import importing
from saltctl.times import parse_seconds
from saltctl.urls import mask_url
from saltctl.values import (
    check_kind,
    parse_cache_name,
    parse_endpoint,
    parse_flag,
    parse_line,
    parse_message_id_from,
    parse_name,
    parse_one_of,
    parse_path,
    parse_region,
    parse_registry_id,
    parse_url,
    parse_whole,
    read_password,
)

T = TypeVar("T")

SORT_KEY_FORMS = ("iso", "epoch-s", "epoch-ms", "epoch-us", "epoch-ns", "ulid", "uuid7", "ksuid")
"""How sort keys may hold times: see saltctl/history/sort_key_form.py."""
REDIS_IAM = ("elasticache", "elasticache-serverless", "memorydb")


def _setting(default: T, parse: Callable[[Any], Any], *environment: str, secret: bool = False) -> T:
    """Declare a setting. Its variable is ``SALTCTL_`` and its name in capitals, unless ``environment`` has others."""
    return field(default=default, metadata={"parse": parse, "environment": environment, "secret": secret})


@dataclass(frozen=True)
class Settings:
    """Settings of a command or an application server. Durations are in seconds.

    ``origins`` is the origin of each field: ``flag --name``, ``environment NAME``, ``context NAME`` or ``default``.
    Create it with :func:`load_settings`, or directly in code that has its own configuration.
    """

    redis_url: str | None = _setting(None, parse_url, secret=True)
    redis_password_file: Path | None = _setting(None, parse_path)
    redis_iam: str | None = _setting(None, partial(parse_one_of, names=REDIS_IAM))
    """Service whose IAM authentication logs in to Redis: one of REDIS_IAM."""
    redis_iam_cache: str | None = _setting(None, parse_cache_name)
    """Name of the replication group, serverless cache or cluster, which the token of IAM authentication names."""
    backup_table: str = _setting("saltctl-registry", parse_name)
    messages_table: str = _setting("messages", parse_name)
    key_prefix: str = _setting("salt", parse_name)
    buckets: int = _setting(16384, partial(parse_whole, minimum=1, maximum=2**20, power_of_two=True))
    """Number of hashes that hold the registry. With 16,384, a million entries are in listpacks of about 61 fields,
    below the limits of Redis and Valkey (measured: tests/benchmarks/memory.py)."""
    registry_id: str | None = _setting(None, parse_registry_id)
    """Id of the registry, as `saltctl status` shows it. Only servers that start while AWS is away need it: without it
    a client reads the id from the backup table, once."""
    message_id_from: str = _setting("sort_key", parse_message_id_from)
    """Source of a message's id: ``sort_key`` (the part after its first ``#``) or ``attribute:NAME``."""
    sort_key_form: str | None = _setting(None, partial(parse_one_of, names=SORT_KEY_FORMS))
    """How sort keys hold times, if some hold none or it cannot be learned from them: one of SORT_KEY_FORMS."""
    max_n_cap: int = _setting(256, partial(parse_whole, minimum=1, maximum=65536))
    wps_per_salt: int = _setting(800, partial(parse_whole, minimum=1))
    heat_floor: int = _setting(10, partial(parse_whole, minimum=1))
    """Write units a second on one server below which a conversation is not reported. A fleet of a hundred servers
    still detects a conversation at 1,000 a second, because each server counts 10."""
    heat_max_age: float = _setting(3600.0, partial(parse_seconds, minimum=1, maximum=366 * 86400))
    """Age above which a window does not cause a raise: writes that are long past need no salts."""
    heat_retention: float = _setting(3600.0, partial(parse_seconds, minimum=0, maximum=366 * 86400))
    """Time that reports stay on the stream after every group acknowledged them, for `saltctl stream replay`."""
    lookup_timeout: float = _setting(0.25, partial(parse_seconds, minimum=0.001, maximum=60))
    """Time for a lookup in Redis, names and connecting included; then it reads the backup."""
    redis_timeout: float = _setting(5.0, partial(parse_seconds, minimum=0.001, maximum=600))
    """Time for every other request to Redis, names, connecting and retries included."""
    page_timeout: float = _setting(10.0, partial(parse_seconds, minimum=0.01, maximum=600))
    """Time for one page of a history: its lookup and the queries of all partitions."""
    hedge_reads: bool = _setting(False, parse_flag)
    """Whether a page sends a query that takes longer than others again."""
    share_reads: bool = _setting(False, parse_flag)
    """Whether readers of one page at the same time share a read that began after all of them asked."""
    aws_timeout: float = _setting(5.0, partial(parse_seconds, minimum=0.05, maximum=600))
    """Time for one request to AWS: names, credentials, connecting, the whole response, and retries included."""
    breaker_seconds: float = _setting(1.0, partial(parse_seconds, minimum=0, maximum=60))
    """Time for which lookups skip a Redis that has just failed."""
    cool_wait: float = _setting(600.0, partial(parse_seconds, minimum=1, maximum=86400))
    """Time between the phases of a cool-down, the same for all. No message is written by a lookup of half that age."""
    cool_after: float = _setting(0.0, partial(parse_seconds, minimum=0, maximum=366 * 86400))
    """Time for which a conversation must have been idle until the service cools it; 0: it cools none."""
    cool_margin: float = _setting(3600.0, partial(parse_seconds, minimum=0, maximum=366 * 86400))
    aws_profile: str | None = _setting(None, parse_line, "AWS_PROFILE")
    aws_region: str | None = _setting(None, parse_region, "AWS_REGION", "AWS_DEFAULT_REGION")
    aws_endpoint_url: str | None = _setting(
        None, parse_endpoint, "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL", secret=True
    )
    """Endpoint of DynamoDB. botocore finds that of CloudWatch itself, unless it is from a context or a flag."""
    actor: str = _setting("unknown", parse_line)
    context: str | None = None
    protected: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse numbers that the command refuses, such as nan; raises ConfigurationError."""
        for spec in _NUMBERS:
            value = getattr(self, spec.name)
            _parse(spec, None if isinstance(value, str) else value, "argument of Settings")

    def __repr__(self) -> str:
        """Hide secrets, so that a traceback or a log line cannot leak one."""
        shown = ", ".join(f"{row['name']}={row['value']!r}" for row in self.describe())
        return f"Settings({shown})"

    @property
    def layout(self) -> str:
        """Name of the registry's layout: version and bucket count. Fences contain it and the registry's id."""
        return f"v2:{self.buckets}"

    def require_registry_id(self) -> str:
        """Return the setting ``registry_id``. Raises ConfigurationError if it is not set."""
        if not self.registry_id:
            raise ConfigurationError("the id of the registry is not known", hint="set SALTCTL_REGISTRY_ID")
        return self.registry_id

    def require_redis_url(self) -> str:
        """Return the Redis URL. Raises ConfigurationError, with a hint how to set it, if it is not set."""
        if not self.redis_url:
            raise ConfigurationError(
                "no Redis is configured",
                hint="set SALTCTL_REDIS_URL, for example redis://127.0.0.1:6379/0, or add a context to the "
                "configuration file; a local environment needs no server\nsaltctl config path\nsaltctl local shell",
            )
        return self.redis_url

    def redis_password(self) -> str | None:
        """Return the password in ``redis_password_file``; None if no file is set. Raises as :func:`read_password`."""
        return None if self.redis_password_file is None else read_password(self.redis_password_file)

    def describe(self) -> list[dict[str, Any]]:
        """Return every setting as ``{"name", "value", "origin"}`` in a fixed order, with secrets masked."""
        rows = []
        for spec in SPECS:
            value = getattr(self, spec.name)
            if spec.secret and value is not None:
                value = mask_url(value)
            elif isinstance(value, Path):
                value = str(value)
            rows.append({"name": spec.name, "value": value, "origin": self.origins.get(spec.name, "default")})
        return rows


@dataclass(frozen=True)
class SettingSpec:
    """One setting: its name (also its key in a context), parser and environment variables."""

    name: str
    parse: Callable[[Any], Any]
    environment: tuple[str, ...]
    secret: bool


SPECS = tuple(
    SettingSpec(f.name, spec["parse"], spec["environment"] or (f"SALTCTL_{f.name.upper()}",), spec["secret"])
    for f in fields(Settings)
    if (spec := f.metadata)
)
_NUMBERS = [spec for spec in SPECS if isinstance(getattr(Settings, spec.name), int | float)]


NO_HOME = "set HOME, XDG_CONFIG_HOME or SALTCTL_CONFIG: the home directory is unknown"


@dataclass(frozen=True)
class ConfigFile:
    """Content of a configuration file."""

    default_context: str | None
    contexts: Mapping[str, Mapping[str, Any]]


def config_path(environ: Mapping[str, str], explicit: Path | None = None) -> Path | None:
    """Return the path of the configuration file: ``--config``, ``$SALTCTL_CONFIG``, or one in the XDG directory.

    None if there is neither a variable nor a home directory, as for a user id without an entry in the passwd file.
    """
    if explicit is not None:
        return explicit
    if environ.get("SALTCTL_CONFIG"):
        try:
            return Path(environ["SALTCTL_CONFIG"]).expanduser()
        except RuntimeError:
            raise ConfigurationError(
                "SALTCTL_CONFIG begins with ~ and the home directory is unknown", hint="write it without ~, or set HOME"
            ) from None
    try:
        base = Path(environ.get("XDG_CONFIG_HOME", ""))
        if not base.is_absolute():  # then it is ignored (XDG): the file would depend on the working directory
            base = Path(environ.get("HOME") or Path.home()) / ".config"
    except RuntimeError:
        return None
    return base / "saltctl" / "config.toml" if base.is_absolute() else None


def read_config(path: Path, *, required: bool) -> ConfigFile:
    """Read a file. ConfigurationError: it is required and missing, unreadable, not TOML, or has an unknown key."""
    file = f"the configuration file {str(path)!r}"
    try:
        with path.open(encoding="utf-8") as opened:
            if len(read := opened.read(1 << 20)) == 1 << 20:  # a device such as /dev/zero never ends
                raise ConfigurationError(f"{file} is longer than 1 MB", hint="check --config and SALTCTL_CONFIG")
        document = tomllib.loads(read)
    except FileNotFoundError:
        if required:
            hint = "check --config and SALTCTL_CONFIG; a new file has comments on each setting\nsaltctl config init"
            raise ConfigurationError(f"{file} does not exist", hint=hint) from None
        return ConfigFile(None, {})
    except OSError as exc:
        hint = f"ls -l {shlex.quote(str(path))}"
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}", hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{file} is not UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{file} is not valid TOML: {exc}") from exc
    except (ValueError, RecursionError) as exc:  # numbers of thousands of digits, and arrays as deep
        raise ConfigurationError(f"{file} contains a value that is too large") from exc
    _reject_unknown(document, ("default_context", "contexts"), f"{str(path)!r}")
    default = document.get("default_context")
    contexts = document.get("contexts", {})
    if default is not None and not isinstance(default, str):
        raise ConfigurationError(f"default_context in {str(path)!r} must be the name of a context")
    if not isinstance(contexts, dict) or not all(isinstance(table, dict) for table in contexts.values()):
        raise ConfigurationError(f"contexts in {str(path)!r} must be tables", hint="write them as [contexts.NAME]")
    for name, table in contexts.items():
        _reject_unknown(table, (*(spec.name for spec in SPECS), "protected"), f"context {name!r} of {str(path)!r}")
    return ConfigFile(default, contexts)


def _reject_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            close = get_close_matches(key, known, 1)
            raise ConfigurationError(
                f"{where} has an unknown key {key!r}",
                hint=f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}",
            )


_OTHER_VARIABLES = ("SALTCTL_CONFIG", "SALTCTL_CONTEXT", "SALTCTL_LOCAL")
"""Variables that are no settings. The last one is that of :mod:`saltctl.stores.loopback`."""
_OF_KUBERNETES = re.compile(
    r"\w+_SERVICE_(HOST=.*|PORT(_\w+)?=[0-9]+)|\w+_PORT(_[0-9]+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*"
    r"|\w+_PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*",
    re.DOTALL,
)
"""What a pod gets for each service of its namespace, such as one named saltctl."""


def _reject_unknown_variables(env: Mapping[str, str]) -> None:
    """Refuse a variable SALTCTL_… that saltctl does not read: a misspelt one would leave its setting unchanged."""
    known = [*(name for spec in SPECS for name in spec.environment), *_OTHER_VARIABLES]
    for name, value in env.items():
        if not name.startswith("SALTCTL_") or name.startswith("SALTCTL_TEST_") or not value or name in known:
            continue
        if _OF_KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        stems = {variable.removeprefix("SALTCTL_"): variable for variable in known}
        close = get_close_matches(name.removeprefix("SALTCTL_").upper(), stems, 1)
        raise ConfigurationError(
            f"the environment variable {name!r:.60} is not one of saltctl",
            hint="\n".join([*(f"did you mean {stems[stem]}?" for stem in close), f"unset {shlex.quote(name)}"]),
        )


def _no_such_context(name: str, path: Path | None, file: ConfigFile) -> ConfigurationError:
    """Return the error of a context that was chosen, and is not in the file, or that has no file."""
    if path is None:
        return ConfigurationError(f"there is no file with context {name!r}", hint=NO_HOME)
    if not path.exists():
        return ConfigurationError(
            f"there is no context {name!r}: the configuration file {str(path)!r} does not exist",
            hint="create the file, then add the context to it\nsaltctl config init",
        )
    hint = f"contexts there: {', '.join(file.contexts)}" if file.contexts else context_hint(name)
    return ConfigurationError(f"there is no context {name!r} in {str(path)!r}", hint=hint)


def context_hint(name: str) -> str:
    """Return how to add a context to the file."""
    return f"add a table of its settings to that file: [contexts.{json.dumps(name[:60])}]"


def settings_or_loaded(settings: Settings | None) -> Settings:
    """Return these settings, or those of the environment for None. Raises UsageError for what is none, as a URL."""
    if settings is None:
        return load_settings()
    check_kind("settings", settings, Settings, 'pass Settings(redis_url="redis://HOST"), or nothing')
    return settings


def load_settings(
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    context: str | None = None,
    config: Path | None = None,
) -> Settings:
    """Resolve every setting.

    Args:
        flags: values from the command line, by setting name; None means not given.
        environ: the environment; ``os.environ`` if omitted. An empty variable means not set, and one that begins
            with ``SALTCTL_`` and is not known is refused.
        context: the context to use; else ``SALTCTL_CONTEXT``, else the file's ``default_context``.
        config: the path of a configuration file, which must exist.

    Raises:
        ConfigurationError: a value is not valid. The message names setting and origin, but never a secret's value.
    """
    env = os.environ if environ is None else environ
    _reject_unknown_variables(env)
    path = config_path(env, config)
    required = config is not None or bool(env.get("SALTCTL_CONFIG"))
    file = ConfigFile(None, {}) if path is None else read_config(path, required=required)
    chosen = context or env.get("SALTCTL_CONTEXT") or file.default_context
    if chosen is not None and chosen not in file.contexts:
        raise _no_such_context(chosen, path, file)
    table = {} if chosen is None else file.contexts[chosen]
    values: dict[str, Any] = {}
    origins = {spec.name: "default" for spec in SPECS}
    for spec in SPECS:
        sources = [
            ((flags or {}).get(spec.name), f"flag --{spec.name.replace('_', '-')}"),
            *((env.get(name) or None, f"environment {name}") for name in _variables_of(spec, env)),
            (table.get(spec.name), f"context {chosen}"),
        ]
        for raw, origin in sources:
            if raw is not None:
                values[spec.name], origins[spec.name] = _parse(spec, raw, origin), origin
                break
    values.setdefault("actor", default_actor())
    protected = table.get("protected", False)
    if not isinstance(protected, bool):
        raise ConfigurationError(
            f"protected (context {chosen}) must be true or false, without quotes", hint=f"correct it in {str(path)!r}"
        )
    return Settings(**values, context=chosen, protected=protected, origins=MappingProxyType(origins))


def _variables_of(spec: SettingSpec, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables of a setting that have an effect, the first one wins."""
    ignored = env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").strip().lower()  # as botocore reads it
    if ignored not in ("", "true", "false"):
        raise ConfigurationError(
            f"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS must be true or false, not {ignored!r:.60}",
            hint="export AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true",
        )
    return () if ignored == "true" and spec.name == "aws_endpoint_url" else spec.environment


def _parse(spec: SettingSpec, raw: Any, origin: str) -> Any:
    try:
        return spec.parse(raw)
    except ValueError as exc:
        variable = origin.replace("environment ", "environment variable ", 1)
        where = "`saltctl config path` names the file" if origin.startswith("context") else f"correct the {variable}"
        raise ConfigurationError(f"{spec.name} ({origin}) {exc}", hint=where) from None


def default_actor() -> str:
    """Return ``user@host``; ``uidN`` if the user has no name."""
    try:
        with importing:  # it imports pwd
            user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
