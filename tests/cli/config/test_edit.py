"""``saltctl config init|use-context``: the file is created once, and one value of it changes."""

from __future__ import annotations

import re
import stat
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.cli.config.edit import with_default_context
from saltctl.settings import SPECS, Settings, load_settings, read_config
from tests.cli.conftest import Runner

TEMPLATE = files("saltctl.cli.config").joinpath("template.toml").read_text("utf-8")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path of a file that does not exist yet, in a directory that does not exist either."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "saltctl" / "config.toml"


def test_init_creates_the_file_once(saltctl: Runner, config: Path) -> None:
    """Only its owner reads it, it works as it is, and it is not overwritten."""
    dry = saltctl("config", "init", "--dry-run", "-o", "json")
    assert dry.json == {"path": str(config), "created": False, "dry_run": True}
    assert not config.parent.exists()
    assert saltctl("config", "init", "-o", "json").json == {"path": str(config), "created": True, "dry_run": False}
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert saltctl("--context", "staging", "config", "show").code == 0
    config.write_text("# mine\n")
    for dry_run in ((), ("--dry-run",)):
        assert saltctl("config", "init", *dry_run).code == 6
    assert config.read_text() == "# mine\n"


def test_init_writes_the_file_of_the_option_and_follows_no_link(saltctl: Runner, tmp_path: Path) -> None:
    """``--config`` names it. A link to nowhere is not followed, and a directory that cannot be written is named."""
    file = tmp_path / "mine.toml"
    assert saltctl("--config", str(file), "config", "init").code == 0
    assert file.read_text() == TEMPLATE
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert saltctl("--config", str(tmp_path / "link"), "config", "init").code == 6
    outcome = saltctl("--config", str(file / "below"), "config", "init")
    assert outcome.code == 78
    assert outcome.err.startswith("error: cannot write the configuration file")


def test_the_template_has_every_setting(tmp_path: Path) -> None:
    """Each with its default, if it has one; without its comment signs the file is valid, too."""
    values = dict(re.findall(r"^# ([a-z_]+) = (.*)$", TEMPLATE, re.MULTILINE))
    assert values.keys() == {spec.name for spec in SPECS} | {"default_context", "protected"}
    for spec in SPECS:
        default = getattr(Settings, spec.name)
        if default is not None and spec.name != "actor":
            assert spec.parse(tomllib.loads(f"x = {values[spec.name]}")["x"]) == default
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r"^# (?=[a-z_]+ = )", "", TEMPLATE, flags=re.MULTILINE))
    assert load_settings(config=file, environ={}).context == "staging"


def test_use_context_changes_one_value(saltctl: Runner, config: Path) -> None:
    """The rest, the mode and a link to the file stay."""
    config.parent.mkdir(parents=True)
    real = config.parent.parent / "dotfiles.toml"
    real.write_bytes(b"# mine\r\ndefault_context='a' # why\r\n[contexts.a]\r\n[contexts.'b c']\r\n")
    real.chmod(0o640)
    config.symlink_to(real)
    dry = saltctl("config", "use-context", "b c", "--dry-run", "-o", "json").json
    assert dry == {"path": str(config), "before": "a", "after": "b c", "changed": True, "dry_run": True}
    assert b"='a'" in real.read_bytes()
    assert saltctl("config", "use-context", "b c").code == 0
    assert real.read_bytes() == b"# mine\r\ndefault_context=\"b c\" # why\r\n[contexts.a]\r\n[contexts.'b c']\r\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert config.is_symlink()
    assert saltctl("config", "use-context", "b c", "-o", "json").json["changed"] is False
    assert sorted(path.name for path in real.parent.iterdir()) == ["dotfiles.toml", "saltctl"]


def test_use_context_of_a_context_that_does_not_exist(saltctl: Runner, config: Path) -> None:
    """Exit 78 with the names there are, and the command with a similar one, or what has to be written.

    Without a file, the hint creates it.
    """
    outcome = saltctl("config", "use-context", "nope")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (78, "  try: saltctl config init")
    assert saltctl("config", "init").code == 0
    outcome = saltctl("config", "use-context", "nope")
    assert (outcome.code, '[contexts."nope"]' in outcome.err.splitlines()[-1]) == (78, True)
    config.write_text('[contexts."nope"]\n')
    assert saltctl("config", "use-context", "nope").code == 0
    config.write_text("[contexts.prod]\n[contexts.staging]\n")
    outcome = saltctl("--config", str(config), "config", "use-context", "prd")
    assert outcome.code == 78
    assert "prod, staging" in outcome.err
    assert outcome.err.endswith(f"try: saltctl --config {config} config use-context prod\n")
    assert config.read_text() == "[contexts.prod]\n[contexts.staging]\n"


def test_a_variable_that_overrides_the_default_is_named(
    saltctl: Runner, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the command would have no effect, and nobody would know why."""
    config.parent.mkdir(parents=True)
    config.write_text("[contexts.prod]\n[contexts.staging]\n")
    monkeypatch.setenv("SALTCTL_CONTEXT", "prod")
    assert "SALTCTL_CONTEXT is 'prod'" in saltctl("config", "use-context", "staging").err


ASSIGNMENTS = [
    'default_context = "old"',
    "default_context='old'",
    '"default_context" = "old"',
    "'default_context'\t=\t'old' # default_context = \"old\"",
    '"default\\u005fcontext" = "old"',
    '  default_context = """old"""',
    'default_context = """\nold"""',
    "default_context = '''\nold'''",
    'default_context = """ol\\\n   d"""',
    'default_context = "with \\"quotes\\" and \\\\"',
    'default_context = """one"quote""""',
    "",
]
BEFORE = [
    "",
    "# default_context = 'a comment'\n\n",
    "contexts.a.actor = '''\ndefault_context = \"in a string\"\n[contexts.b]\nx = \\\"\"\"\n'''\n",
    'contexts.a.actor = """\ndefault_context = \'in a string\'\n\\""" # x = \'\'\'\n"""\n',
    "contexts.a = {actor = 'default_context = 1'}\n",
]
AFTER = [
    "",
    "\n",
    "\n[contexts.z]\ndefault_context = 'of another table'\nheat_floor = nan # ümläut\n",
    '\n[contexts.z]\nactor = """\ndefault_context = \'old\'\n"""\n',
]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_every_other_byte_stays(assignment: str, before: str, after: str, newline: str) -> None:
    """However the setting is written, whatever is around it, and wherever something looks like it."""
    text = (before + assignment + after).replace("\n", newline)
    changed = with_default_context(text, 'new "name"')
    document = tomllib.loads(changed)
    assert document.pop("default_context") == 'new "name"'
    assert repr(document) == repr({k: v for k, v in tomllib.loads(text).items() if k != "default_context"})
    head, tail = before.replace("\n", newline), after.replace("\n", newline)
    assert changed.endswith(tail)
    if assignment:
        assert changed.startswith(head)
        assert ("# default_context" in assignment) is ('# default_context = "old"' in changed[len(head) :])
    else:
        assert changed.removesuffix(text).rstrip() == 'default_context = "new \\"name\\""'


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(ASSIGNMENTS))
def test_every_name_can_be_written(name: str, assignment: str) -> None:
    """Control characters, quotes and every script."""
    assert tomllib.loads(with_default_context(assignment, name)) == {"default_context": name}


def test_a_file_that_cannot_be_read_is_not_changed(saltctl: Runner, config: Path) -> None:
    """Not valid, with an unknown key, not UTF-8, or no file."""
    config.parent.mkdir(parents=True)
    for content in (b"[contexts", b"[contexts.a]\nx = 1\n", b"[contexts.a]\n# \xff\n"):
        config.write_bytes(content)
        assert saltctl("config", "use-context", "a").code == 78
        assert config.read_bytes() == content
    config.unlink()
    config.mkdir()
    assert saltctl("config", "use-context", "a").code == 78
    assert read_config(config / "none", required=False).contexts == {}
