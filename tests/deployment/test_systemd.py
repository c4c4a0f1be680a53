"""The systemd unit: an absolute executable, values as systemd reads them, and no password."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from saltctl.deployment.systemd import canary_unit, is_hidden, unit
from saltctl.errors import UsageError
from saltctl.settings import Settings

SETTINGS = Settings(redis_url="redis://:hunter2@cache:6379/0", backup_table="mine", key_prefix="px")
ANALYZE = shutil.which("systemd-analyze")
SALTCTL = ["/usr/local/bin/saltctl"]


def test_the_unit_follows_the_settings() -> None:
    """Names and prefix are those in force; a URL with a password is left out."""
    text = unit(SETTINGS, SALTCTL)
    assert "Environment=SALTCTL_BACKUP_TABLE=mine\n" in text
    assert "Environment=SALTCTL_KEY_PREFIX=px\n" in text
    assert "hunter2" not in text
    assert "Environment=SALTCTL_REDIS_URL=redis://cache/0\n" in unit(
        replace(SETTINGS, redis_url="redis://cache/0"), SALTCTL
    )
    assert "Environment=SALTCTL_REDIS_TIMEOUT=0.5\n" in unit(replace(SETTINGS, redis_timeout=0.5), SALTCTL)


def test_the_password_file_is_a_credential() -> None:
    """Systemd reads it for the user of the service, also where ProtectHome hides it; another path is refused."""
    text = unit(replace(SETTINGS, redis_password_file=Path("/home/me/50% of it")), SALTCTL)
    assert "\nLoadCredential=redis-password:/home/me/50%% of it\n" in text
    assert "\nEnvironment=SALTCTL_REDIS_PASSWORD_FILE=%d/redis-password\n" in text
    for path in ("/a\nExecStart=/b", "/a ", "/a\\"):
        with pytest.raises(UsageError):
            unit(replace(SETTINGS, redis_password_file=Path(path)), SALTCTL)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("a%b", "Environment=SALTCTL_KEY_PREFIX=a%%b"),
        ("a b", 'Environment="SALTCTL_KEY_PREFIX=a b"'),
        ('a"b\\', 'Environment="SALTCTL_KEY_PREFIX=a\\"b\\\\"'),
    ],
)
def test_a_value_is_read_back_as_it_is(value: str, line: str) -> None:
    """Systemd expands %, splits at spaces, and reads quotes and backslashes."""
    assert line in unit(replace(SETTINGS, key_prefix=value), SALTCTL).splitlines()


def test_the_canary_has_a_unit_of_its_own() -> None:
    """A loop, which is quiet if all is well and has time to end its round; with secrets of its own."""
    text = canary_unit(SETTINGS, SALTCTL)
    started = (
        "ExecStart=/usr/local/bin/saltctl canary --every=1m --timeout=50s --cron --metrics-file=%t/saltctl-canary/"
    )
    assert started in text
    assert "Environment=SALTCTL_BACKUP_TABLE=mine\n" in text
    assert "EnvironmentFile=-/etc/saltctl/canary.env\n" in text
    assert "TimeoutStopSec=60\n" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "path", ["saltctl", "./saltctl", "bin/saltctl", "/opt/my tools/saltctl", "/opt/%i", "/a\nb", "/$x", ""]
)
def test_an_executable_that_systemd_would_not_run_is_refused(path: str) -> None:
    """A relative path, and what it would split or expand."""
    with pytest.raises(UsageError) as raised:
        unit(SETTINGS, [path])
    assert raised.value.hint == "saltctl service emit systemd --executable /usr/local/bin/saltctl"


def test_a_path_that_the_unit_hides_is_known() -> None:
    """ProtectHome and PrivateTmp are in the unit."""
    assert is_hidden("/home/me/.local/bin/saltctl")
    assert is_hidden("/tmp/venv/bin/saltctl")  # noqa: S108  names no file
    assert not is_hidden("/opt/saltctl/bin/saltctl")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("prefix", ["px", "a b", "a%b", "a'b"])
def test_systemd_accepts_the_unit(prefix: str, tmp_path: Path) -> None:
    """``systemd-analyze verify`` finds nothing to say about it, and finds the executable."""
    secret = Path(f"/run/{prefix}")
    settings = replace(SETTINGS, key_prefix=prefix, redis_url="redis://cache/0?a=%20", redis_password_file=secret)
    files = {"saltctl-service@.service": unit, "saltctl-canary.service": canary_unit}
    programs = ([sys.executable, "-m", "saltctl"], True), (["/nowhere/saltctl"], False)
    for (name, make), (words, good) in product(files.items(), programs):
        file = tmp_path / name
        file.write_text(make(settings, words))
        done = subprocess.run([ANALYZE or "", "verify", file], capture_output=True, text=True, check=False)
        told = [line for line in done.stderr.splitlines() if name.partition("@")[0].partition(".")[0] in line]
        assert bool(told) is not good, done.stderr
