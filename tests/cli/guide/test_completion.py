"""Completion: the scripts in ``completions/`` are the ones that the command prints, and they work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_bash_completes_commands(tmp_path: Path) -> None:
    """The script, loaded into bash, completes the first letters of a command."""
    found = shutil.which("bash")
    if found is None:
        pytest.skip("bash is not installed")
    launcher = tmp_path / "saltctl"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m saltctl "$@"\n')
    launcher.chmod(0o755)
    script = (
        f"source {SCRIPTS / FILES['bash']}\n"
        'COMP_WORDS=(saltctl reg) COMP_CWORD=1\n_saltctl_completion saltctl reg saltctl\necho "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([found, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["registry"], done.stderr
