"""Completion: the scripts in ``completions/`` are the ones that the command prints, and they work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from saltctl.cli.main import run
from tests.cli.conftest import Runner

SCRIPTS = Path(__file__).parents[3] / "completions"
FILES = {"bash": "saltctl.bash", "zsh": "_saltctl", "fish": "saltctl.fish", "powershell": "saltctl.ps1"}


@pytest.mark.parametrize("shell", FILES)
def test_scripts_are_current(shell: str, saltctl: Runner) -> None:
    """Each file is byte for byte the output of ``saltctl completion``."""
    outcome = saltctl("completion", shell)
    assert outcome.code == 0
    assert outcome.out == (SCRIPTS / FILES[shell]).read_text()
    assert not outcome.out.startswith("\n")


CONFIG = '[contexts.prod]\n[contexts.preview]\n[contexts.staging]\n[contexts."a $(touch x)"]\n'
ASKED = [
    (["reg"], {"registry"}),
    (["registry", "s"], {"set"}),
    (["--context", "pr"], {"prod", "preview"}),
    (["rebuild", "--confirm", "st"], {"staging"}),
    (["drill", "redis-re"], {"redis-restart"}),
    (["drill", "redis-restart", "off"], {"offline-reader"}),
    (["doctor", "--only", "redis-ve"], {"redis-version", "redis-verified"}),
    (["help", "thr"], {"throttled"}),
    (["registry", "list", "--sort", ""], {"id", "n"}),
    (["registry", "list", "-o", "j"], {"json", "jsonl"}),
    (["registry", "get", "conv_"], set()),
    (["rebuild", "--dry"], {"--dry-run"}),
    (["--install"], set()),
    (["--context", "=", "pr"], {"prod", "preview"}),  # as bash splits --context=pr
    (["--context", "="], {"prod", "preview", "staging"}),
    (["registry", "list", "--sort", "=", "i"], {"id"}),
    (["registry", "get", "a", "=", "b"], set()),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables in which ``saltctl`` is this one, with a configuration file."""
    launcher = tmp_path / "saltctl"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m saltctl "$@"\n')
    launcher.chmod(0o755)
    (tmp_path / "config.toml").write_text(CONFIG)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SALTCTL_CONFIG": str(tmp_path / "config.toml"), "HOME": str(tmp_path)}


def _ask(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    """Return what the bash script reads for these words, and stderr."""
    os.environ |= {
        "_SALTCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["saltctl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    with pytest.raises(SystemExit):
        run([])
    out, err = capsys.readouterr()
    return set(out.split()), err


@pytest.mark.parametrize(("words", "expected"), ASKED, ids=[" ".join(words) for words, _ in ASKED])
def test_names_are_completed(
    words: list[str],
    expected: set[str],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands, options, choices, contexts, drills, checks and topics; no conversation ids."""
    with patch.dict(os.environ, environment):
        assert _ask(words, capsys) == (expected, "")


@pytest.mark.parametrize(
    ("shell", "answer"),
    [
        ("fish", "--sort=id\n--sort=n\n"),
        ("powershell", "--sort=id::: \n--sort=n::: \n"),
        ("zsh", """_arguments '*: :(("--sort=id"\n"--sort=n"))'\n"""),
    ],
)
def test_other_shells_take_the_option_with_its_value(
    shell: str, answer: str, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one word there, which the value alone would replace; without an answer nothing is added."""
    for typed, expected in (("--sort=", answer), ("--sort=x", "_files\n" if shell == "zsh" else "\n")):
        asked = {"_SALTCTL_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": f"saltctl registry list {typed}"}
        more = {"_TYPER_COMPLETE_WORD_TO_COMPLETE": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        with patch.dict(os.environ, environment | asked | more), pytest.raises(SystemExit):
            run([])
        assert capsys.readouterr() == (expected, "")


def test_the_contexts_are_those_of_the_file_in_use(
    environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is, of ``--config``. A name that a shell would evaluate, and a broken file, complete nothing."""
    other, broken = tmp_path / "other.toml", tmp_path / "broken.toml"
    other.write_text("[contexts.elsewhere]\n")
    broken.write_text("[contexts")
    with patch.dict(os.environ, environment):
        assert _ask(["--config", str(other), "--context", ""], capsys) == ({"elsewhere"}, "")
        assert _ask(["--context", "a"], capsys) == (set(), "")
        assert _ask(["--config", str(broken), "--context", ""], capsys) == (set(), "")
        assert _ask(["--config", str(tmp_path / "none"), "--context", ""], capsys) == (set(), "")


def test_an_error_is_not_printed_between_typed_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong while a shell completes ends silently."""
    variables = {"_SALTCTL_COMPLETE": "complete_bash", "COMP_WORDS": "saltctl", "COMP_CWORD": "x"}
    with patch.dict(os.environ, variables):
        assert run([]) == 1
    assert capsys.readouterr() == ("", "")


def test_powershell(environment: dict[str, str], saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script changes no key of the shell, and what it leaves in the environment does no harm."""
    assert "PSReadLine" not in saltctl("completion", "powershell").out
    protocol = {"_SALTCTL_COMPLETE": "complete_powershell", "_TYPER_COMPLETE_ARGS": "saltctl drill redis-re"}
    asked = environment | protocol | {"_TYPER_COMPLETE_WORD_TO_COMPLETE": "redis-re"}
    done = subprocess.run([_shell("saltctl", environment)], capture_output=True, text=True, env=asked, check=True)
    assert [line.split(":::")[0] for line in done.stdout.splitlines()] == ["redis-restart"]
    monkeypatch.setenv("_SALTCTL_COMPLETE", "")
    assert saltctl("registy").err.endswith("try: saltctl registry\n")


def _shell(name: str, environment: dict[str, str] | None = None) -> str:
    found = shutil.which(name, path=(environment or os.environ)["PATH"])
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("words", [["reg"], ["--context", "=", "pr"], ["doctor", "--only", "redis-ve"]], ids=" ".join)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_completes_in_its_shell(shell: str, words: list[str], environment: dict[str, str]) -> None:
    """Loaded into the shell, it completes a command and names."""
    script, line = SCRIPTS / FILES[shell], " ".join(["saltctl", *words])
    if shell != "bash":
        line = line.replace(" = ", "=")
    commands = {
        "bash": f"source {script}\nCOMP_WORDS=({line}) COMP_CWORD={len(words)}\n"
        '_saltctl_completion saltctl\nprintf "%s\\n" "${COMPREPLY[@]}"\n',
        "zsh": f"compdef() {{ }}\nsource {script}\n_arguments() {{ print -r -- $@ }}\n"
        f"words=({line}) CURRENT=${{#words}}\n_saltctl_completion\n",
        "fish": f"source {script}\ncomplete -C '{line}'\n",
    }
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [_shell(shell), *flags, "-c", commands[shell]], capture_output=True, text=True, env=environment, check=False
    )
    expected = next(names for asked, names in ASKED if asked == words)
    item = r'"(?:--context=)?([\w-]+)"(?=[\s:)])' if shell == "zsh" else r"^(?:--context=)?([\w-]+)"
    found = set(re.findall(item, done.stdout, re.MULTILINE))
    assert found == expected, done


@pytest.mark.slow
def test_zsh_completes_at_the_first_tab(environment: dict[str, str], tmp_path: Path) -> None:
    """Compinit loads the script from a directory of functions, as package managers install it."""
    zsh = _shell("zsh")
    shutil.copy(SCRIPTS / FILES["zsh"], tmp_path)
    lines = (f"fpath=({tmp_path} $fpath)", "autoload -Uz compinit", "compinit -u -D", "PS1='ready '")
    (tmp_path / ".zshrc").write_text("\n".join(lines) + "\n")
    (tmp_path / "keys.zsh").write_text(
        "zmodload zsh/zpty\nzpty shell ZDOTDIR=$HOME TERM=dumb zsh -i\n"
        "zpty -r shell seen '*ready *'\nzpty -w -n shell $'saltctl regi\\t'\n"
        "zpty -r shell seen '*registry*'\nprint -r -- $seen\nzpty -d shell\n"
    )
    done = subprocess.run(
        [zsh, "-f", str(tmp_path / "keys.zsh")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert "saltctl registry" in done.stdout, done
