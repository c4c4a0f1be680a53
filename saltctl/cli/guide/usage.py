"""Usage errors: what was typed, why saltctl cannot use it, and the command line that was probably meant."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import typer

from saltctl.cli.guide.groups import argument_name
from saltctl.cli.guide.near_words import near_command
from saltctl.cli.session import REDIS_URL_HINT
from saltctl.commands import command_line
from saltctl.errors import SaltctlError

_NEAR_OPTIONS = {
    "--json": ("-o", "json"),
    "--jsonl": ("-o", "jsonl"),
    "--tsv": ("-o", "tsv"),
    "--table": ("-o", "table"),
    "--format": ("-o",),
    "--force": ("--yes",),
    "--assume-yes": ("--yes",),
    "--from": ("--since",),
    "--to": ("--until",),
    "-n": ("--limit",),
    "-V": ("--version",),
    "-v": ("--verbose",),
    "-c": ("--context",),
}
_NEAR_VALUES = {"prometheus": ("alerts",), "k8s": ("kubernetes",)}
_CHOICE = re.compile(r"(?:Value error, )?('.*'|\".*\") is not one of (.*?)\.?", re.DOTALL)
_PASSWORD = re.compile(r"(://[^/:@]*:).*@", re.DOTALL)
_MOST_CORRECTIONS = 5
_IDS = frozenset({"conversation", "conversations", "message", "ids"})
"""Arguments that other people chose, and that may begin with a dash."""
Suggestion = str | list[str]
"""A hint, or the words of a command line that may have more mistakes."""
_LONG = re.compile("--.")
_SHOWN = 60
"""Characters of a value that an error shows."""


def one_of(words: Sequence[str]) -> str:
    """Return ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


@dataclass
class Line:
    """The arguments of a command line: the command that they name, and the rest.

    ``path`` are the words of the command or group; ``at`` is the index of the first argument after them.
    """

    root: Any
    args: Sequence[str]
    path: list[str] = field(default_factory=list, init=False)
    at: int = field(default=0, init=False)
    command: Any = field(init=False)
    _names: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Find the command."""
        self.command = self.root
        while hasattr(self.command, "commands"):
            at = next((i for i in self._words(self.at, self.command) if not _is_option(self.args[i])), len(self.args))
            word = self.args[at] if at < len(self.args) else ""
            if word not in self.command.commands:
                break
            self.command, self.at = self.command.commands[word], at + 1
            self.path.append(word)
            self._names.append(at)

    @property
    def name(self) -> str:
        """The command as it is typed, such as ``saltctl registry get``."""
        return " ".join(["saltctl", *self.path])

    def names_at(self, at: int) -> bool:
        """Return whether the argument at an index is a word of the command's name."""
        return at in self._names

    @property
    def unknown_word(self) -> int | None:
        """The index of the word that the group does not know."""
        return next((i for i in self._words(self.at, self.command) if not _is_option(self.args[i])), None)

    def index_of_option(self, name: str) -> int | None:
        """Return the index of an option after the command; the argument there may carry its value."""
        return next((i for i in self._words(self.at, self.command) if self.args[i].partition("=")[0] == name), None)

    def index_of_value(self, param: Any, value: str) -> int | None:
        """Return the index of the argument that gives a parameter this value, alone or with an option's name."""
        if param.param_type_name == "argument":
            return next((i for i in self._words(self.at, self.command) if self.args[i] == value), None)
        joined = [form for name in param.opts for form in (f"{name}={value}", f"{name}{value}")]
        for i in range(self.at, len(self.args)):
            if self.args[i] in joined or (self.args[i] == value and self.args[i - 1] in param.opts):
                return i
        return None

    def with_words(self, words: Sequence[str], at: int) -> list[str]:
        """Return the command line in which ``words`` stand for the command and the argument at an index."""
        if words[:1] == ["--version"]:
            return ["--version"]
        kept = [word for i, word in enumerate(self.args) if i < at and i not in self._names]
        return [*kept, *words, *self.args[at + 1 :]]

    def with_argument(self, at: int, *words: str) -> list[str]:
        """Return the command line with other words for the argument at an index."""
        return [*self.args[:at], *words, *self.args[at + 1 :]]

    def with_dashes(self) -> list[str]:
        """Return the command line with all arguments of the command behind ``--``."""
        options, ids = self._options_and_arguments()
        return [*self.args[: self.at], *options, "--", *ids]

    def without_arguments(self) -> list[str]:
        """Return the command line with the options of the command alone."""
        return [*self.args[: self.at], *self._options_and_arguments()[0]]

    def _options_and_arguments(self) -> tuple[list[str], list[str]]:
        options, ids, known = list[str](), list[str](), _options_of(self.command)
        for at in self._words(self.at, self.command):
            taken = 1 if known.get(self.args[at], True) or "=" in self.args[at] else 2
            (options if self.args[at].partition("=")[0] in known else ids).extend(self.args[at : at + taken])
        return options, ids

    def with_root_options_first(self) -> list[str] | None:
        """Return the command line with the root's options before the command; None if one lacks its value."""
        moved: list[str] = []
        kept: list[str] = []
        mine = {**_options_of(self.root), **_options_of(self.command)}
        words = list(self.args[self.at :])
        while words:
            word = words.pop(0)
            if word == "--":
                kept += [word, *words]
                break
            name, equals, _ = word.partition("=")
            target = moved if name in _options_of(self.root) and name not in _options_of(self.command) else kept
            target.append(word)
            if name in mine and not mine[name] and not equals:
                if not words and target is moved:
                    return None
                target += words[:1]
                del words[:1]
        return [*moved, *self.args[: self.at], *kept]

    def _words(self, start: int, command: Any) -> Iterator[int]:
        """Yield the indexes of the arguments that are no values of options, up to ``--``."""
        options, at = _options_of(command), start
        while at < len(self.args) and self.args[at] != "--":
            yield at
            takes_value = "=" not in self.args[at] and not options.get(self.args[at], True)
            at += 2 if takes_value else 1


def _options_of(command: Any) -> dict[str, bool]:
    """Return the options of a command, and whether each is a flag, which takes no value."""
    found = {n: bool(p.is_flag) for p in command.params if p.param_type_name == "option" for n in p.opts}
    return {**found, "-h": True, "--help": True}


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def describe_usage_error(exc: Any, root: Any, args: Sequence[str]) -> tuple[str, str]:
    """Return the message and the hint of an error that typer raised for a command line.

    The hint corrects all misspelt words, or it is the help.

    Args:
        exc: the error.
        root: the whole command tree.
        args: the command line.
    """
    message, suggestion = _described(exc, Line(root, args))
    for _ in range(_MOST_CORRECTIONS):
        if isinstance(suggestion, str):
            break
        if (following := _next_correction(Line(root, suggestion))) is None:
            return message, REDIS_URL_HINT if any(map(_PASSWORD.search, args)) else command_line(*suggestion)
        suggestion = following
    return message, suggestion if isinstance(suggestion, str) else "saltctl --help"


def _next_correction(line: Line) -> Suggestion | None:
    """Return what corrects the next misspelt word; None if there is none. A value that is missing is none."""
    if hasattr(line.command, "commands"):
        at = line.unknown_word
        return None if at is None else _unknown_command(line, at)[1]
    exc = _usage_error(line.command, line.args[line.at :])
    if exc and "extra argument" in _message_of(exc) and not _takes(line):
        return line.without_arguments()  # those of the command that was typed for it
    misspelt = type(exc).__name__ == "NoSuchOption" or (exc and _CHOICE.fullmatch(_message_of(exc)))
    return _described(exc, line)[1] if misspelt else None


def _usage_error(command: Any, words: Sequence[str]) -> Any:
    """Return typer's error for the words of a command; None without one. Nothing is run."""
    if {"-h", "--help"} & {*words}:  # it would be printed
        return None
    try:
        command.make_context(command.name, list(words))
    except typer.TyperException as exc:
        return exc
    except SaltctlError:  # such as another context than the one to confirm
        return None
    return None


def _message_of(exc: Any) -> str:
    return str(exc.message).strip().rstrip(".")


def _described(exc: Any, line: Line) -> tuple[str, Suggestion]:
    """Return the message, and what corrects the first mistake."""
    kind, message = type(exc).__name__, _message_of(exc)
    param, option = getattr(exc, "param", None), str(getattr(exc, "option_name", ""))
    if kind == "NoSuchOption":
        return _unknown_option(line, option)
    if kind == "BadOptionUsage":
        return _option_value(line, option, missing="require" in message)
    if message.startswith("No such command") and (at := line.unknown_word) is not None:
        return _unknown_command(line, at)
    if kind == "MissingParameter" and param is not None:
        return f"cannot run {line.name}: {_name_of(param)} is missing{_choices_of(param)}", f"{line.name} --help"
    if "extra argument" in message:
        return _extra_arguments(line, message)
    if param is not None:
        return _bad_value(line, param, message)
    return message, f"{line.name} --help"


def _unknown_command(line: Line, at: int) -> tuple[str, Suggestion]:
    message = f"cannot run {_quoted(line.args[at])}: {line.name} has no such command"
    near = near_command(line.root, line.command, line.path, line.args[at])
    return message, line.with_words(near, at) if near else f"{line.name} --help"


def _quoted(text: str) -> str:
    return repr(_PASSWORD.sub(r"\1***@", text[:_SHOWN]))


def _name_of(param: Any) -> str:
    """Return the name of a parameter as its help has it."""
    return str(param.opts[0]) if param.param_type_name == "option" else argument_name(param)


def _choices_of(param: Any) -> str:
    """Return the choices of a parameter that was omitted."""
    described = getattr(param, "type_descriptor", None) or getattr(param, "type", None)
    choices = getattr(described, "choices", None)
    return f"; it must be {one_of([str(choice) for choice in choices])}" if choices else ""


def _unknown_option(line: Line, option: str) -> tuple[str, Suggestion]:
    """Describe an option that the command does not have; the hint is the command line with the right one."""
    mine, roots = _options_of(line.command), _options_of(line.root)
    at = line.index_of_option(option)
    if line.path and option in roots:
        message = f"cannot use {option} after the command: it stands before it, as saltctl {option} … {line.path[0]}"
        return message, line.with_root_options_first() or "saltctl --help"
    message = f"cannot use {_quoted(option)[1:-1]}: {line.name} has no such option"
    if "passw" in option.lower():
        return message, REDIS_URL_HINT
    if (at is None or hasattr(line.command, "commands")) and (meant := _option_before_command(line, option)):
        return meant
    if at is None:
        return _dashed_argument(line, option) or (message, f"{line.name} --help")
    _, equals, value = line.args[at].partition("=")
    words = _NEAR_OPTIONS.get(option, ())
    if words and words[0] in mine:
        return message, line.with_argument(at, *words, *([value] if equals else []))
    near = get_close_matches(option, [name for name in mine if name.startswith("--")], 1, 0.7)
    near = near or [name for name in mine if len(option) > 3 and name.startswith(option)]
    if near and near[0] in line.args and mine[near[0]]:
        return message, line.with_argument(at)  # a flag is given once
    if near:
        return message, line.with_argument(at, near[0] + equals + value)
    return _dashed_argument(line, option) or (message, f"{line.name} --help")


def _option_before_command(line: Line, option: str) -> tuple[str, Suggestion] | None:
    """Describe an option that stands before the command that has it; None if no command of the line has it."""
    names = {option, *_NEAR_OPTIONS.get(option, ())[:1]}
    at = next((i for i, word in enumerate(line.args) if word.startswith(option)), len(line.args))
    for i in range(at + 1, len(line.args)):
        found = Line(line.root, [*line.args[:at], *line.args[i:]])
        if found.names_at(at) and not hasattr(found.command, "commands") and names & _options_of(found.command).keys():
            end = found.args.index("--") if "--" in found.args else len(found.args)
            moved = [*found.args[:end], *line.args[at:i], *found.args[end:]]
            return f"cannot use {option} before the command: it stands after it, as {found.name} {option}", moved
    return None


def _dashed_argument(line: Line, option: str) -> tuple[str, Suggestion] | None:
    """Describe an id that begins with one dash, and was taken for options; None if no id is meant."""
    arguments = [param for param in line.command.params if param.param_type_name == "argument"]
    word = next((w for w in line.args[line.at :] if w.startswith(option)), "")
    if len(option) != 2 or "--" in line.args or not _IDS & {param.name for param in arguments}:
        return None
    words = line.with_dashes()
    ids = words[words.index("--") + 1 :]
    if len(word) == 2 and len(ids) > 1 and any(param.nargs == -1 for param in arguments):
        return None  # a letter among ids is an option
    if any(map(_LONG.match, ids)) or _usage_error(line.command, words[line.at :]) is not None:
        return None
    meant = arguments[min(ids.index(word), len(arguments) - 1)]
    if meant.name not in _IDS:
        return f"cannot use {_name_of(meant)} {_quoted(word)}: it begins with a dash", f"{line.name} --help"
    return f"cannot use {_quoted(word)}: only after -- may an id begin with a dash", words


def _option_value(line: Line, option: str, *, missing: bool) -> tuple[str, Suggestion]:
    if missing:
        return f"cannot use {option}: its value is missing", f"{line.name} --help"
    at = line.index_of_option(option)
    hint: Suggestion = f"{line.name} --help" if at is None else line.with_argument(at, option)
    return f"cannot use {option} with a value: it is a flag", hint


def _takes(line: Line) -> list[str]:
    """Return the names of the arguments that the command takes."""
    return [_name_of(p) for p in line.command.params if p.param_type_name == "argument"]


def _extra_arguments(line: Line, message: str) -> tuple[str, Suggestion]:
    takes = _takes(line)
    taken = f"it takes {' '.join(takes)} only" if takes else "it takes no arguments"
    extra = _quoted(message.partition("(s) (")[2].removesuffix(")"))
    return f"cannot run {line.name}: {taken}, and {extra} is too much", _flags_first(line) or f"{line.name} --help"


def _flags_first(line: Line) -> list[str]:
    """Return the command line with the flags behind ``--`` before it, where they are flags; empty without any."""
    at = line.args.index("--") if "--" in line.args else len(line.args)
    known, behind = _options_of(line.command), line.args[at + 1 :]
    flags = [word for word in behind if known.get(word)]
    return [*line.args[:at], *flags, "--", *(word for word in behind if word not in flags)] if flags else []


def _bad_value(line: Line, param: Any, message: str) -> tuple[str, Suggestion]:
    """Describe a value that its option or argument does not take."""
    name = _name_of(param)
    if (found := _CHOICE.fullmatch(message)) is None:
        if message.startswith("'' is not "):
            return f"cannot use {name}: it is empty", "is the variable set that holds it?"
        return f"cannot use {name}: {message.removeprefix('Value error, ')}", f"{line.name} --help"
    value, choices = str(literal_eval(found[1])), re.findall("'([^']*)'", found[2])
    hint: Suggestion = f"{line.name} --help"
    near = [word for word in _NEAR_VALUES.get(value.lower(), ()) if word in choices]
    near = near or get_close_matches(value.lower(), choices, 1, 0.5)
    if near and (at := line.index_of_value(param, value)) is not None:
        hint = line.with_argument(at, line.args[at].removesuffix(value) + near[0])
    return f"cannot use {name} {_quoted(value)}: it must be {one_of(choices)}", hint
