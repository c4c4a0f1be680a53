"""Usage errors: in plain English, with the command line that was probably meant."""

from __future__ import annotations

import shlex

import pytest

from saltctl.cli.guide.near_words import NEAR_WORDS
from tests.cli.conftest import Runner
from tests.cli.tree import LEAVES

PARAMETERS = [(name, param) for name, command in LEAVES.items() for param in getattr(command, "params", ())]


def _choices(param: object) -> list[str]:
    described = getattr(param, "type_descriptor", None) or getattr(param, "type", None)
    return [str(choice) for choice in getattr(described, "choices", None) or ()]


VALUED = [(name, param) for name, param in PARAMETERS if param.param_type_name == "option" and not param.is_flag]
CHOICES = [(name, param) for name, param in VALUED if _choices(param)]
OWN_ARGUMENTS = ("local run", "help", "drill", "conform")
"""Commands whose arguments are optional, or those of another command."""


def arguments_of(name: str) -> list[str]:
    """Return a value for each argument that the command requires."""
    params = [param for owner, param in PARAMETERS if owner == name and param.param_type_name == "argument"]
    return ["4" if param.name == "n" else "systemd" if param.name == "kind" else "x" for param in params]


SUGGESTED = [
    ("registy", "registry"),
    ("rebiuld --dry-run", "rebuild --dry-run"),
    ("REBUILD", "rebuild"),
    ("registry lst --sort n", "registry list --sort n"),
    ("throttle alarms lst", "throttle alarms list"),
    ("raise 'conv 1' 4", "registry set 'conv 1' 4"),
    ("registry raise c 4", "registry set c 4"),
    ("rais c 4", "registry set c 4"),
    ("diff --repair", "compare --repair"),
    ("registry verify", "compare"),
    ("--verbose drift --sample 1/4", "--verbose compare --sample 1/4"),
    ("version", "--version"),
    ("scan", "throttle scan"),
    ("replay --dry-run", "stream replay --dry-run"),
    ("get c", "registry get c"),
    ("list", "registry list"),
    ("stream list", "stream dead list"),
    ("logs", "service status"),
    ("peek", "stream peek"),
    ("audit c", "history audit c"),
    ("exprt", "registry export"),
    ("rebuild --segmnts 3", "rebuild --segments 3"),
    ("rebuild --segmnts=3", "rebuild --segments=3"),
    ("doctor --formt nagios", "doctor --format nagios"),
    ("registry set c 4 --dryrun", "registry set c 4 --dry-run"),
    ("registry list --json", "registry list -o json"),
    ("registry list --format=json", "registry list -o json"),
    ("setup --force", None),
    ("registry set c 4 --force", "registry set c 4 --yes"),
    ("rebuild --dry-run=3", "rebuild --dry-run"),
    ("registry list -o jsn", "registry list -o json"),
    ("registry list -ojsn", "registry list -ojson"),
    ("registry list --output=jsn", "registry list --output=json"),
    ("registry list --prefix jsn -o jsn", "registry list --prefix jsn -o json"),
    ("registry get x --context prod", "--context prod registry get x"),
    ("registry get 'x y' --context prod -o json", "--context prod registry get 'x y' -o json"),
    ("--config f get x --backup-table=t", "--backup-table=t --config f registry get x"),
    ("--config f registry get x --backup-table=t --verbose", "--backup-table=t --verbose --config f registry get x"),
    ("registry set c 4 --reason --context --context prod", "--context prod registry set c 4 --reason --context"),
    ("status --version", "--version status"),
    ("zzz", None),
    ("--zzz", None),
    ("registry get x --context", None),
    ("registy gte c", "registry get c"),
    ("registry lst --lmit 3 --srot n", "registry list --limit 3 --sort n"),
    ("rebiuld --segmnts=3 --dryrun", "rebuild --segments=3 --dry-run"),
    ("registry lst --sort nn", "registry list --sort n"),
    ("--contxt prod registy gte c", "--context prod registry get c"),
    ("registry lst --zzz", None),
    ("registry lst --sort zzz", None),
    ("registry zzz --lmit 3", None),
    ("registry set -dash 4", "registry set -- -dash 4"),
    ("registry set -dash 4 --reason x --yes", "registry set --reason x --yes -- -dash 4"),
    ("registry get c -dash --dryrun", None),
    ("--verbose history find c -x", "--verbose history find -- c -x"),
    ("stream dead drop -1-1 --yes", "stream dead drop --yes -- -1-1"),
    ("registry set c -4", None),
    ("registry get c -n 3", None),
    ("drill -x", None),
    ("verify --sample 1/4", "compare --sample 1/4"),
    ("config set redis_url x", "config path"),
    ("config get redis_url", "config show"),
    ("config edit", "config path"),
    ("config contexts", "config path"),
    ("config use prod", "config use-context prod"),
    ("context list", "config show"),
    ("registry show c -o json", "registry get c -o json"),
    ("history show c", "history read c"),
    ("history get c --limit 3", "history read c --limit 3"),
    ("throttle show", "throttle scan"),
    ("service install", "service emit systemd"),
    ("history set c 4", None),
    ("registry repair", None),
    ("history rebuild", None),
    ("registry recover", "help recover"),
    ("exit-codes", "help exit-codes"),
    ("redis-restarted", "help redis-restarted"),
    ("redis-restart", "help redis-restarted"),
    ("emit prometheus", "service emit alerts"),
    ("service emit k8s", "service emit kubernetes"),
    ("-o json status", "status -o json"),
    ("-ojson status", "status -ojson"),
    ("-o tsv registry get -- -c", "registry get -o tsv -- -c"),
    ("--verbose --limit 3 registry list", "--verbose registry list --limit 3"),
    ("registry --limit=3 -o json list", "registry list --limit=3 -o json"),
    ("--adopt --repair compare", "compare --adopt --repair"),
    ("--json status", "status -o json"),
    ("-o json registy", None),
    ("registry set -- -conv 4 --yes", "registry set --yes -- -conv 4"),
    ("registry set -- -conv 4 5", None),
    ("compare --adpt --adopt --repair", "compare --adopt --repair"),
]


@pytest.mark.parametrize(("typed", "meant"), SUGGESTED, ids=[typed for typed, _ in SUGGESTED])
def test_the_hint_is_the_command_line_that_was_meant(saltctl: Runner, typed: str, meant: str | None) -> None:
    """It can be pasted; without a near word the hint is the help."""
    outcome = saltctl(*shlex.split(typed))
    hint = outcome.err.splitlines()[-1]
    assert outcome.code == 2
    if "json" in typed:
        return
    assert outcome.err.startswith("error: cannot ")
    assert hint == f"  try: saltctl {meant}" if meant else hint.endswith("--help")


@pytest.mark.parametrize("typed", [typed for typed, meant in SUGGESTED if meant and "jso" in typed])
def test_the_hint_in_json_is_the_same(saltctl: Runner, typed: str) -> None:
    """With ``-o json`` the error is one line of JSON."""
    outcome = saltctl(*shlex.split(typed))
    hints = [outcome.error["hint"]] if outcome.err.startswith("{") else [outcome.err.splitlines()[-1][7:]]
    assert hints == [f"saltctl {meant}" for given, meant in SUGGESTED if given == typed]


@pytest.mark.parametrize("word", sorted(NEAR_WORDS))
def test_a_near_word_names_a_command(saltctl: Runner, word: str) -> None:
    """Each word of the table leads to a command that exists, and is none itself."""
    outcome = saltctl(*word.split())
    assert outcome.code == 2
    meant = NEAR_WORDS[word].split(" -")[0]
    assert outcome.err.splitlines()[-1] == f"  try: saltctl {NEAR_WORDS[word]}"
    assert meant == "--version" or any(name == meant or meant.startswith(f"{name} ") for name in LEAVES)


def test_a_password_is_not_repeated(saltctl: Runner) -> None:
    """Neither that of a URL after the command, nor that of one in the place of a command."""
    for url in ("redis://:hunter2@h", "redis://u:hunter 2@h", "redis://u:hun@ter2@h"):
        for typed in (("registry", "get", "x", "--redis-url", url), (url,), ("rebuild", url), ("drill", f"--x={url}")):
            for form in ((), ("-o", "json")):
                outcome = saltctl(*typed, *form)
                assert outcome.code == 2
                assert not {"hunter", "ter2"} & set(outcome.err.replace("@", " ").replace(":", " ").split())
                assert "hun" not in outcome.err


@pytest.mark.parametrize("typed", ["get x --password geheim", "lst --password=geheim", "lst redis://:geheim@h"])
def test_a_password_on_the_command_line_has_another_place(saltctl: Runner, typed: str) -> None:
    """The error masks the password, and no word of its own; the hint names no command that shows it."""
    outcome = saltctl("registry", *typed.split())
    where = "put the URL into SALTCTL_REDIS_URL, or the password into a file: SALTCTL_REDIS_PASSWORD_FILE"
    assert outcome.err.endswith(f"\n  {where}\n")
    assert "***" not in outcome.err
    assert "geheim" not in outcome.err


def test_an_empty_context(saltctl: Runner) -> None:
    """It is that of a variable that is not set, and in no command of a hint."""
    outcome = saltctl("--context", "", "registry", "gte", "x")
    assert outcome.err == "error: cannot use --context: it is empty\n  is the variable set that holds it?\n"
    assert "\n  saltctl config path\n" in saltctl("--key-prefix", "", "doctor").out


@pytest.mark.parametrize(("name", "param"), VALUED, ids=[f"{name} {param.opts[0]}" for name, param in VALUED])
def test_an_option_without_its_value(saltctl: Runner, name: str, param: object) -> None:
    """The error names the option, and the hint is the help of this command."""
    option = param.opts[0]  # type: ignore[attr-defined]
    outcome = saltctl(*name.split(), option)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"error: cannot use {option}: its value is missing\n  try: saltctl {name} --help\n"


@pytest.mark.parametrize(("name", "param"), CHOICES, ids=[f"{name} {param.opts[0]}" for name, param in CHOICES])
@pytest.mark.parametrize("value", ["no such\tvalue", "it's", ""])
def test_a_choice_is_explained_in_our_words(saltctl: Runner, name: str, param: object, value: str) -> None:
    """The error names every choice; no library's words are in it."""
    option = param.opts[0]  # type: ignore[attr-defined]
    outcome = saltctl(*name.split(), *arguments_of(name), option, value)
    message = outcome.err.splitlines()[0]
    assert outcome.code == 2
    assert message.startswith(f"error: cannot use {option} ")
    assert "Value error" not in outcome.err
    assert all(choice in message for choice in _choices(param))


@pytest.mark.parametrize("name", sorted(set(LEAVES) - set(OWN_ARGUMENTS)))
def test_too_many_and_too_few_arguments(saltctl: Runner, name: str) -> None:
    """The error says what the command takes."""
    params = [param for owner, param in PARAMETERS if owner == name and param.param_type_name == "argument"]
    if not any(param.nargs == -1 for param in params):
        outcome = saltctl(*name.split(), *arguments_of(name), "one too many")
        assert outcome.code == 2
        assert outcome.err.startswith((f"error: cannot run saltctl {name}: it takes ", "error: cannot use "))
    if any(param.required for param in params):
        outcome = saltctl(*name.split())
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: cannot run saltctl {name}: ")
        assert "is missing" in outcome.err
        assert "\\n" not in outcome.err
