"""Settings: precedence and origin of values, refused values, and secrets that are never shown."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from shlex import quote as quote_for_shell
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from saltctl.cli.main import run
from saltctl.errors import ConfigurationError
from saltctl.settings import SPECS, Settings, config_path, default_actor, load_settings, read_config
from saltctl.urls import MASK

SECRET = "hunter2-and-more"  # noqa: S105  opens nothing

# For each setting: three values as they are typed, and as they are parsed.
VALUES: dict[str, list[tuple[str, Any]]] = {
    "redis_url": [(url, url) for url in ("redis://flag:1/0", "rediss://environment:2", "unix:///context.sock")],
    "redis_password_file": [(path, Path(path)) for path in ("/flag", "/environment", "/context")],
    "redis_iam": [(name, name) for name in ("elasticache", "elasticache-serverless", "memorydb")],
    "redis_iam_cache": [(name, name) for name in ("flag", "environment", "context")],
    "backup_table": [(name, name) for name in ("flag-table", "environment-table", "context-table")],
    "messages_table": [(name, name) for name in ("flag-table", "environment-table", "context-table")],
    "key_prefix": [(name, name) for name in ("flag", "environment", "context")],
    "buckets": [("64", 64), ("128", 128), ("256", 256)],
    "registry_id": [(digit * 16, digit * 16) for digit in "abc"],
    "message_id_from": [(f"attribute:{name}", f"attribute:{name}") for name in ("flag", "environment", "context")],
    "sort_key_form": [(name, name) for name in ("ulid", "iso", "epoch-ms")],
    "max_n_cap": [("8", 8), ("16", 16), ("32", 32)],
    "wps_per_salt": [("100", 100), ("200", 200), ("300", 300)],
    "heat_floor": [("1", 1), ("20", 20), ("30", 30)],
    "heat_max_age": [("60", 60.0), ("600", 600.0), ("86400", 86400.0)],
    "heat_retention": [("0", 0.0), ("60", 60.0), ("600", 600.0)],
    "lookup_timeout": [("0.1", 0.1), ("0.2", 0.2), ("0.3", 0.3)],
    "redis_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "page_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "hedge_reads": [("true", True), ("false", False), ("TRUE", True)],
    "share_reads": [("true", True), ("false", False), ("True", True)],
    "aws_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "breaker_seconds": [("0.5", 0.5), ("2", 2.0), ("3", 3.0)],
    "cool_wait": [("300", 300.0), ("10m", 600.0), ("15m", 900.0)],
    "cool_after": [("1h", 3600.0), ("2", 2.0), ("0", 0.0)],
    "cool_margin": [("0", 0.0), ("30m", 1800.0), ("2h", 7200.0)],
    "aws_profile": [(name, name) for name in ("flag", "environment", "context")],
    "aws_region": [(name, name) for name in ("eu-central-1", "us-east-1", "us-west-2")],
    "aws_endpoint_url": [(url, url) for url in ("http://flag:1", "https://environment", "http://context:3")],
    "actor": [(name, name) for name in ("flag", "environment", "context")],
}
NAMES = [spec.name for spec in SPECS]
VARIABLES = {spec.name: spec.environment for spec in SPECS}

Writer = Callable[[str], Path]


@pytest.fixture
def config(tmp_path: Path) -> Writer:
    """Writes a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def origin_of(settings: Settings, name: str) -> Any:
    """(value, origin) of a setting."""
    return getattr(settings, name), settings.origins[name]


# Which value wins.


def test_every_setting_is_tried_here() -> None:
    """VALUES has every setting."""
    assert list(VALUES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_flag_before_environment_before_context_before_default(config: Writer, name: str) -> None:
    """Each setting is read from each of its sources in turn, and its origin names the source."""
    (flag, flag_value), (variable, variable_value), (context, context_value) = VALUES[name]
    path = config(f'[contexts.prod]\n{name} = "{context}"\n')
    environ = {VARIABLES[name][0]: variable}
    option = f"flag --{name.replace('_', '-')}"

    def load(flags: dict[str, Any], environ: dict[str, str], context: str | None) -> Any:
        return origin_of(load_settings(flags=flags, environ=environ, context=context, config=path), name)

    assert load({name: flag}, environ, "prod") == (flag_value, option)
    assert load({name: None}, environ, "prod") == (variable_value, f"environment {VARIABLES[name][0]}")
    assert load({}, {}, "prod") == (context_value, "context prod")
    default = default_actor() if name == "actor" else getattr(Settings(), name)
    assert load({}, {}, None) == (default, "default")


@pytest.mark.parametrize("name", [spec.name for spec in SPECS if not spec.secret])
def test_an_empty_variable_is_not_set(name: str) -> None:
    """``VARIABLE= command`` unsets a variable."""
    environ = dict.fromkeys(VARIABLES[name], "")
    assert load_settings(environ=environ).origins[name] == "default"


def test_zero_is_a_value() -> None:
    """A breaker of 0 seconds is not the default breaker."""
    assert load_settings(flags={"breaker_seconds": 0}, environ={"SALTCTL_BREAKER_SECONDS": "3"}).breaker_seconds == 0
    assert load_settings(environ={"SALTCTL_BREAKER_SECONDS": "0"}).breaker_seconds == 0


def test_the_region_has_two_variables() -> None:
    """AWS_REGION wins over AWS_DEFAULT_REGION, and the origin names the variable that was used."""
    both = {"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-east-1"}
    assert origin_of(load_settings(environ=both), "aws_region") == ("eu-central-1", "environment AWS_REGION")
    del both["AWS_REGION"]
    assert origin_of(load_settings(environ=both), "aws_region") == ("us-east-1", "environment AWS_DEFAULT_REGION")


def test_numbers_may_be_numbers_in_the_file(config: Writer) -> None:
    """A number of TOML and a quoted number are both accepted."""
    settings = load_settings(
        environ={},
        context="a",
        config=config("[contexts.a]\nbuckets = 64\nlookup_timeout = 1\naws_timeout = '2.5'\nredis_timeout = '500ms'\n"),
    )
    assert (settings.buckets, settings.lookup_timeout, settings.aws_timeout) == (64, 1.0, 2.5)
    assert settings.redis_timeout == 0.5


def test_defaults() -> None:
    """Without a file and variables, settings have their defaults. Redis has none; the actor is determined."""
    settings = load_settings(environ={"HOME": "/nonexistent"})
    assert set(settings.origins.values()) == {"default"}
    assert settings.context is None
    assert not settings.protected
    assert settings.actor == default_actor()
    with pytest.raises(ConfigurationError, match="no Redis is configured"):
        settings.require_redis_url()


def test_settings_do_not_change() -> None:
    """Settings are frozen, so that each origin stays true."""
    settings = load_settings(environ={})
    with pytest.raises(FrozenInstanceError):
        settings.buckets = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.origins["buckets"] = "me"  # type: ignore[index]


# Contexts.

TWO_CONTEXTS = """
default_context = "staging"
[contexts.staging]
redis_url = "redis://staging:6379/0"
[contexts.prod]
redis_url = "redis://prod:6379/0"
protected = true
"""


@pytest.mark.parametrize(
    ("argument", "variable", "chosen"),
    [("prod", "staging", "prod"), (None, "prod", "prod"), (None, "", "staging"), (None, None, "staging")],
)
def test_which_context_is_used(config: Writer, argument: str | None, variable: str | None, chosen: str) -> None:
    """--context, then SALTCTL_CONTEXT, then the file's default_context."""
    environ = {} if variable is None else {"SALTCTL_CONTEXT": variable}
    settings = load_settings(environ=environ, context=argument, config=config(TWO_CONTEXTS))
    assert settings.context == chosen
    assert settings.redis_url == f"redis://{chosen}:6379/0"
    assert settings.protected is (chosen == "prod")


def test_an_unknown_context_names_those_that_exist(config: Writer) -> None:
    """It is an error: with a default context, the command would use another environment."""
    with pytest.raises(ConfigurationError, match="no context 'production'") as refused:
        load_settings(environ={}, context="production", config=config(TWO_CONTEXTS))
    assert "staging, prod" in refused.value.hint
    with pytest.raises(ConfigurationError, match="no context 'nowhere'"):
        load_settings(environ={"SALTCTL_CONTEXT": "nowhere"}, config=config(TWO_CONTEXTS))


def test_a_context_without_a_file_is_an_error(tmp_path: Path) -> None:
    """The requested context cannot exist without a file."""
    with pytest.raises(
        ConfigurationError, match=r"no context 'prod': the configuration file .* does not exist"
    ) as refused:
        load_settings(environ={"XDG_CONFIG_HOME": str(tmp_path), "SALTCTL_CONTEXT": "prod"})
    assert refused.value.hint.endswith("\nsaltctl config init")


def test_protection_is_true_or_false(config: Writer) -> None:
    """``protected = "yes"`` is an error, neither true nor false."""
    with pytest.raises(ConfigurationError, match=r"protected \(context a\) must be true or false") as refused:
        load_settings(environ={}, context="a", config=config('[contexts.a]\nprotected = "yes"\n'))
    assert "config.toml" in refused.value.hint


# Bad values.

BAD: list[tuple[str, Any, str]] = [
    ("redis_url", "redis://", "must name a host"),
    ("redis_url", "unix://", "must name a socket"),
    ("redis_url", "http://host", "must begin with redis://, rediss://, unix://"),
    ("redis_url", "host:6379", "must begin with"),
    ("redis_url", "redis://host:6379/db", "database number"),
    ("redis_url", f"redis://:{SECRET}@host:port/0", "is not a valid URL"),
    ("redis_url", f"redis://:{SECRET}/x@host/0", "is not a valid URL"),
    ("redis_url", f"redis://:{SECRET}@[host/0", "is not a valid URL"),
    ("redis_url", f"redis://user:1/{SECRET}@host/0", "not a valid URL"),
    ("redis_url", f"reddis://:{SECRET}@host/0", "must begin with"),
    ("redis_url", 6379, "must be a string"),
    ("redis_password_file", 5, "must be a string"),
    ("backup_table", "two words", "must be 1 to 1,024 letters"),
    ("backup_table", "x" * 1025, "must be 1 to 1,024 letters"),
    ("messages_table", "   ", "not empty"),
    ("key_prefix", "{tag}", "must be 1 to 1,024 letters"),
    ("buckets", "100", "power of two"),
    ("buckets", "0", "from 1 to"),
    ("buckets", "-4", "whole number"),
    ("buckets", "4.0", "whole number"),
    ("buckets", 4.0, "whole number"),
    ("buckets", True, "whole number"),
    ("buckets", "٤", "whole number"),
    ("buckets", str(2**21), "from 1 to"),
    ("max_n_cap", "many", "whole number"),
    ("max_n_cap", "65537", "from 1 to 65536"),
    ("wps_per_salt", "9" * 5000, "whole number"),
    ("lookup_timeout", "soon", "number of seconds"),
    ("lookup_timeout", "nan", "number of seconds"),
    ("lookup_timeout", "inf", "number of seconds"),
    ("lookup_timeout", float("nan"), "from 0.001 to 60"),
    ("lookup_timeout", float("inf"), "from 0.001 to 60"),
    ("lookup_timeout", "1e-1", "number of seconds"),
    ("lookup_timeout", "1_0", "number of seconds"),
    ("lookup_timeout", "2m", "from 0.001 to 60"),
    ("sort_key_form", "epoch", "must be one of iso, epoch-s"),
    ("lookup_timeout", "0", "from 0.001 to 60"),
    ("redis_timeout", True, "number of seconds"),
    ("aws_timeout", [5], "number of seconds"),
    ("hedge_reads", "yes", "must be true or false"),
    ("hedge_reads", 1, "must be true or false"),
    ("share_reads", "0", "must be true or false"),
    ("breaker_seconds", "-1", "number of seconds"),
    ("cool_wait", "0", "from 1 to 86400 seconds"),
    ("cool_margin", "-1", "number of seconds"),
    ("aws_profile", 7, "must be a string"),
    ("aws_region", "eu central", "must be the name of a region"),
    ("redis_iam", "iam", "must be one of elasticache, elasticache-serverless"),
    ("redis_iam_cache", "c.abc.use1.cache.amazonaws.com", "not its endpoint"),
    ("aws_endpoint_url", "127.0.0.1:8000", "http:// or https://"),
    ("aws_endpoint_url", "http://", "http:// or https://"),
    ("aws_endpoint_url", f"http://user:{SECRET}@[host", "is not a valid URL"),
    ("aws_endpoint_url", f"ftp://user:{SECRET}@host", "http:// or https://"),
    ("actor", "  ", "not empty"),
    ("actor", "alice\nroot", "one line"),
    ("actor", "alice\x1b[2J", "one line"),
    ("aws_profile", "a\tb", "one line"),
]


@pytest.mark.parametrize(("name", "bad", "says"), BAD, ids=lambda value: ascii(value)[:30])
def test_an_invalid_value_names_setting_and_origin(name: str, bad: Any, says: str) -> None:
    """The message names the setting, its origin and the rule; it never contains a password."""
    origin = f"flag --{name.replace('_', '-')}"
    with pytest.raises(ConfigurationError) as refused:
        load_settings(flags={name: bad}, environ={})
    assert refused.value.message.startswith(f"{name} ({origin}) ")
    assert says in refused.value.message
    shown = "".join(traceback.format_exception(refused.value)) + refused.value.hint
    assert SECRET not in shown.replace(repr(bad), "")


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, bad, _ in BAD if isinstance(bad, str) and bad.strip()])
def test_bad_values_are_refused_from_the_environment_too(name: str, bad: str) -> None:
    """The message names the variable."""
    variable = VARIABLES[name][0]
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={variable: bad})
    assert refused.value.message.startswith(f"{name} (environment {variable}) ")
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize("value", ["5", "true", "[1]", "2024-05-01", "{a = 1}"])
def test_bad_types_in_the_file_are_refused(config: Writer, value: str) -> None:
    """A URL must be a string of TOML."""
    with pytest.raises(ConfigurationError, match=r"redis_url \(context a\) must be a string"):
        load_settings(environ={}, context="a", config=config(f"[contexts.a]\nredis_url = {value}\n"))


# The file.


def test_path_of_the_configuration_file() -> None:
    """The order is --config, SALTCTL_CONFIG, and the XDG directory, which is ~/.config by default."""
    environ = {"SALTCTL_CONFIG": "/variable.toml", "XDG_CONFIG_HOME": "/xdg", "HOME": "/home/me"}
    assert config_path(environ, Path("/flag.toml")) == Path("/flag.toml")
    assert config_path(environ) == Path("/variable.toml")
    assert config_path({**environ, "SALTCTL_CONFIG": ""}) == Path("/xdg/saltctl/config.toml")
    assert config_path({"HOME": "/home/me"}) == Path("/home/me/.config/saltctl/config.toml")


def test_no_configuration_file_of_the_working_directory() -> None:
    """A relative XDG_CONFIG_HOME or HOME would make it depend on the directory in which a command is run."""
    assert config_path({"XDG_CONFIG_HOME": "rel", "HOME": "/home/me"}) == Path("/home/me/.config/saltctl/config.toml")
    assert config_path({"HOME": "rel"}) is None


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HOME nor an entry in the passwd file, as in a container with a user id of its own."""

    def unknown(user: object) -> None:
        """Raise as pwd does."""
        raise KeyError(user)

    for name in ("HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)


def test_without_a_home_there_is_no_file(homeless: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything works without one; what needs it says which variable to set (78)."""
    assert config_path({}) is None
    assert load_settings(environ={"SALTCTL_KEY_PREFIX": "x"}).actor.startswith("uid")
    with pytest.raises(ConfigurationError, match="no file with context") as refused:
        load_settings(environ={}, context="prod")
    assert "HOME" in refused.value.hint
    with pytest.raises(ConfigurationError, match="home directory is unknown"):
        load_settings(environ={"SALTCTL_CONFIG": "~/x.toml"})
    with pytest.raises(ConfigurationError, match="HOME is not set"):
        load_settings(environ={"SALTCTL_REDIS_PASSWORD_FILE": "~/x"})
    assert run(["config", "path"]) == 78
    assert "set HOME, XDG_CONFIG_HOME or SALTCTL_CONFIG" in capsys.readouterr().err
    assert run(["config", "show"]) == 0


def test_an_optional_file_may_be_missing(tmp_path: Path) -> None:
    """A missing file has no contexts: most application servers have none."""
    file = read_config(tmp_path / "config.toml", required=False)
    assert file.default_context is None
    assert file.contexts == {}


def test_a_requested_file_must_exist(tmp_path: Path) -> None:
    """A wrong path in --config or SALTCTL_CONFIG is an error; the defaults are not used."""
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_settings(environ={}, config=missing)
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_settings(environ={"SALTCTL_CONFIG": str(missing)})


def test_a_device_without_end_is_no_configuration() -> None:
    """Reading it would fill the memory."""
    with pytest.raises(ConfigurationError, match="longer than"):
        load_settings(environ={}, config=Path("/dev/zero"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[contexts", "is not valid TOML"),
        (b"a = 1\na = 2\n", "is not valid TOML"),
        ("[contexts.é]\n".encode("latin-1"), "is not UTF-8"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"default_context = 5\n", "must be the name of a context"),
        (b"contexts = 5\n", "must be tables"),
        (b"contexts = ['a']\n", "must be tables"),
        (b"[contexts]\na = 5\n", "must be tables"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """The message names the file and the fault."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says) as refused:
        load_settings(environ={}, config=path)
    assert str(path) in refused.value.message


def test_a_directory_as_configuration_file_is_refused(tmp_path: Path) -> None:
    """The message has the reason of the operating system."""
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(environ={}, config=tmp_path)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[contexts.a]\nredis_ulr = 'x'\n", "redis_ulr", "did you mean redis_url?"),
        ("[contexts.a]\nprotect = true\n", "protect", "did you mean protected?"),
        ("[contexts.a]\nstate_dir = '/var/lib'\n", "state_dir", "known keys: redis_url"),
        ("[contexts.a]\nzzz = 1\n", "zzz", "known keys: redis_url"),
        ("[context.a]\n", "context", "did you mean contexts?"),
        ("redis_url = 'redis://h'\n", "redis_url", "known keys: default_context, contexts"),
    ],
)
def test_an_unknown_key_is_refused(config: Writer, text: str, key: str, hint: str) -> None:
    """A mistyped key is an error, also in a context that is not used; the default is not used."""
    with pytest.raises(ConfigurationError, match=f"unknown key '{key}'") as refused:
        load_settings(environ={}, config=config(text))
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("SALTCTL_BUCKTS", "did you mean SALTCTL_BUCKETS?"),
        ("SALTCTL_backup_table", "did you mean SALTCTL_BACKUP_TABLE?"),
        ("SALTCTL_CONTXT", "did you mean SALTCTL_CONTEXT?"),
        ("SALTCTL_AWS_REGION", "did you mean AWS_REGION?"),
        ("SALTCTL_REDIS_PORT", "did you mean"),  # with this value it is none of a Kubernetes service
        ("SALTCTL_ZZZ", ""),
        ("SALTCTL_$(x)", ""),
    ],
)
def test_an_unknown_variable_is_refused(name: str, near: str) -> None:
    """A mistyped variable would leave its setting at the default; its value, perhaps a secret, is not shown."""
    with pytest.raises(ConfigurationError, match=re.escape(f"variable {name!r} is not one")) as refused:
        load_settings(environ={name: SECRET})
    assert refused.value.hint.startswith(near)
    assert refused.value.hint.splitlines()[-1] == f"unset {quote_for_shell(name)}"
    assert SECRET not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SALTCTL_BUCKTS", ""),
        ("SALTCTL_LOCAL", "1"),
        ("SALTCTL_TEST_WARM", "1"),
        ("_SALTCTL_COMPLETE", "complete_bash"),
        ("SALTCTL_SERVICE_HOST", "10.0.0.7"),
        ("SALTCTL_SERVICE_PORT_METRICS", "9464"),
        ("SALTCTL_PORT", "tcp://10.0.0.7:9464"),
        ("SALTCTL_METRICS_PORT_9464_TCP", "tcp://10.0.0.7:9464"),
        ("SALTCTL_PORT_9464_TCP_ADDR", "10.0.0.7"),
    ],
)
def test_variables_that_others_set_are_ignored(name: str, value: str) -> None:
    """An empty variable, those of tests and of shells, and what a pod gets for a service of that name."""
    assert load_settings(environ={name: value}).buckets == 16384


def test_commands_without_settings_ignore_a_misspelt_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version and the help can be read; a command that has settings exits 78."""
    monkeypatch.setenv("SALTCTL_BUCKTS", "64")
    assert [run(args) for args in (["--version"], ["help", "glossary"], ["config", "path"])] == [0, 0, 0]
    capsys.readouterr()
    assert run(["config", "show"]) == 78
    assert "try: unset SALTCTL_BUCKTS" in capsys.readouterr().err


# Secrets.

passwords = st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=40)


@given(passwords)
def test_no_representation_of_settings_shows_a_password(password: str) -> None:
    """`saltctl config show` prints describe(); tracebacks and logs contain repr()."""
    masked = Settings(redis_url=f"redis://user:{MASK}@h:6379/0")
    assume(password not in f"{masked!r} {masked.describe()!r}")  # such as "origin", which is a key of each row
    quoted = quote(password, safe="")
    settings = Settings(redis_url=f"redis://user:{quoted}@h:6379/0", aws_endpoint_url=f"http://user:{quoted}@h/")
    for shown in (repr(settings), str(settings), repr(settings.describe())):
        assert quoted not in shown
        assert password not in shown


def test_describe_has_every_setting_in_a_fixed_order(config: Writer) -> None:
    """Each row has value and origin, as `saltctl config show` prints them; a URL has no password."""
    path = config(f'[contexts.prod]\nredis_url = "redis://:{SECRET}@h/0"\n')
    rows = load_settings(environ={"SALTCTL_BUCKETS": "64"}, context="prod", config=path).describe()
    assert [row["name"] for row in rows] == NAMES
    by_name = {row["name"]: row for row in rows}
    assert by_name["redis_url"] == {"name": "redis_url", "value": "redis://:***@h/0", "origin": "context prod"}
    assert by_name["buckets"] == {"name": "buckets", "value": 64, "origin": "environment SALTCTL_BUCKETS"}
    assert by_name["key_prefix"] == {"name": "key_prefix", "value": "salt", "origin": "default"}


def test_settings_created_in_code_can_be_described() -> None:
    """Their origins are all ``default``: application servers may have a configuration of their own."""
    assert {row["origin"] for row in Settings(redis_url="redis://h").describe()} == {"default"}


# The password file.


@pytest.mark.parametrize("content", [f"{SECRET}\n", SECRET, f"{SECRET}\r\n"])
def test_the_password_file_is_read_without_its_last_newline(tmp_path: Path, content: str) -> None:
    """Editors add a final newline; the rest of the file is the password."""
    path = tmp_path / "password"
    path.write_text(content, encoding="utf-8", newline="")
    settings = load_settings(environ={"SALTCTL_REDIS_PASSWORD_FILE": str(path)})
    assert settings.redis_password() == SECRET
    assert SECRET not in repr(settings)


def test_blanks_belong_to_the_password(tmp_path: Path) -> None:
    """Only newlines at the end are removed."""
    path = tmp_path / "password"
    path.write_text("  a b \n", encoding="utf-8")
    assert Settings(redis_password_file=path).redis_password() == "  a b "


def test_without_a_password_file_the_password_is_none() -> None:
    """The result is None: the URL may have the password."""
    assert Settings().redis_password() is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("\ufeffpw", "byte order mark"),
        ("", "is empty"),
        ("\n\r\n", "is empty"),
        (f"{SECRET}\nuser\n", "several lines"),
        (f"a\r{SECRET}", "several lines"),
    ],
)
def test_a_password_file_holds_a_password_alone(tmp_path: Path, content: str, problem: str) -> None:
    """An empty one would log in without a password; of several lines the right one is not known."""
    path = tmp_path / "password"
    path.write_text(content, newline="")
    with pytest.raises(ConfigurationError, match=f"redis_password_file '{path}' .*{problem}") as refused:
        Settings(redis_password_file=path).redis_password()
    assert SECRET not in f"{refused.value.message}{refused.value.hint}"


def test_a_password_file_is_a_regular_file(tmp_path: Path) -> None:
    """A pipe without a writer would block."""
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (tmp_path, pipe):
        with pytest.raises(ConfigurationError, match=f"redis_password_file '{path}' is not a regular file"):
            Settings(redis_password_file=path).redis_password()


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The message names the file and the reason; it does not quote bytes that are not UTF-8."""
    missing = tmp_path / "missing"
    with pytest.raises(ConfigurationError, match="No such file") as refused:
        Settings(redis_password_file=missing).redis_password()
    assert str(missing) in refused.value.message
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(ConfigurationError, match="it is not UTF-8") as refused:
        Settings(redis_password_file=binary).redis_password()
    assert SECRET not in f"{refused.value.message}{refused.value.hint}"


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``~`` in a path is expanded: no shell does it for a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = load_settings(environ={"SALTCTL_REDIS_PASSWORD_FILE": "~/password"})
    assert settings.redis_password_file == tmp_path / "password"


def test_the_layout_names_version_and_bucket_count() -> None:
    """Fences in Redis and the binding in the backup table have this name."""
    assert Settings(buckets=64).layout == "v2:64"


@pytest.mark.parametrize(
    ("variables", "value", "origin"),
    [
        ({"AWS_ENDPOINT_URL": "http://a"}, "http://a", "environment AWS_ENDPOINT_URL"),
        (
            {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_DYNAMODB": "http://b"},
            "http://b",
            "environment AWS_ENDPOINT_URL_DYNAMODB",
        ),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "True"}, None, "default"),
    ],
)
def test_the_endpoint_is_the_one_in_use(variables: dict[str, str], value: str | None, origin: str) -> None:
    """As botocore chooses it."""
    settings = load_settings(environ=variables)
    assert (settings.aws_endpoint_url, settings.origins["aws_endpoint_url"]) == (value, origin)
    from saltctl.stores.aws.client import create_client

    with pytest.MonkeyPatch.context() as patch:
        for name, text in variables.items():
            patch.setenv(name, text)
        endpoint = create_client(settings, "dynamodb").meta.endpoint_url
    assert endpoint == (value or "https://dynamodb.us-east-1.amazonaws.com")
