"""The command `completion`: scripts for bash, zsh and fish, made from the parsers of all commands. No torch here."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lemamba.commands import COMMANDS, parser_of
from lemamba.commands.options import CompletionOptions
from lemamba.utils.registry import scan
from lemamba.utils.sensors import DATASETS, SENSORS

_ROOT = Path(__file__).resolve().parent.parent
_SHORT = 72  # characters of a description


@dataclass(frozen=True)
class Flag:
    """One option of a command.

    Attributes:
        spellings: with their dashes.
        text: what it does, one line.
        takes: "nothing", "words", "file" or "value".
        words: the words it takes.
    """

    spellings: tuple[str, ...]
    text: str
    takes: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A command, or a subcommand of one: its words on the command line, what it does, options and positional words."""

    words: tuple[str, ...]
    text: str
    flags: tuple[Flag, ...]
    positional: tuple[str, ...] = ()


def known_names() -> dict[str, tuple[str, ...]]:
    """Return the names that options take, by the last part of their field's name; read without importing code."""
    methods, losses = (
        tuple(sorted((entry.name for entry in scan([_ROOT / folder], kind).values()), key=str.lower))
        for folder, kind in (("model", "register_model"), ("losses", "register_loss"))
    )
    sensors, sets = tuple(sensor.name for sensor in SENSORS.values()), tuple(DATASETS)
    return {"arch": methods, "methods": methods, "loss.name": losses, "sensor": sensors, "dataset": sets}


def places() -> list[Place]:
    """Return every command and subcommand with its options, as their parsers have them."""
    names, found = known_names(), []
    for name, command in COMMANDS.items():
        parser = parser_of(name, f"lemamba {name}")
        below = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        found.append(_place((name,), command.text, parser, names))
        for key, sub in below.choices.items() if below else ():
            found.append(_place((name, key), (sub.description or "").partition("\n")[0], sub, names))
    return found


def _place(
    words: tuple[str, ...], text: str, parser: argparse.ArgumentParser, names: dict[str, tuple[str, ...]]
) -> Place:
    flags, positional = [], []
    for action in parser._actions:
        if not action.option_strings:
            positional += [str(word) for word in action.choices or ()]
            continue
        choices = action.choices or names.get(action.dest) or names.get(action.dest.rpartition(".")[2])
        if action.nargs == 0:
            takes = "nothing"
        else:
            takes = "words" if choices else "file" if action.type is Path else "value"
        shown = (action.help or "").replace("%%", "%")
        shown = shown if len(shown) <= _SHORT else shown[: _SHORT - 2].rpartition(" ")[0] + " …"
        flags.append(Flag(tuple(action.option_strings), shown, takes, tuple(map(str, choices or ()))))
    return Place(words, text, tuple(flags), tuple(positional))


def bash(found: list[Place]) -> str:
    """Return the script for bash: words by the place on the command line, files where there are none."""
    cases = []
    for place in found:
        at = " ".join(place.words)
        for flag in place.flags:
            keys = "|".join(f'"{at} {spelling}"' for spelling in flag.spellings)
            if flag.takes == "words":
                cases.append(f"        {keys}) words={shlex.quote(' '.join(flag.words))} ;;")
            elif flag.takes != "nothing":
                cases.append(f"        {keys}) return ;;")
        options = shlex.quote(" ".join(spelling for flag in place.flags for spelling in flag.spellings))
        cases.append(f'        "{at} "*) words={options} own={shlex.quote(" ".join(place.positional))} ;;')
    names = " ".join(place.words[0] for place in found if len(place.words) == 1)
    longer = "|".join(sorted({place.words[0] for place in found if len(place.words) == 2}))
    cases.sort(key=_how_general)
    body = "\n".join(cases)
    return f"""# Completion of lemamba for bash; made by: lemamba completion bash
_lemamba() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} at=${{COMP_WORDS[1]}} words= own=
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W {shlex.quote(names)} -- "$current"))
        return
    fi
    case $at in
        {longer}) (( COMP_CWORD == 2 )) && before= || at="$at ${{COMP_WORDS[2]}}" ;;
    esac
    case "$at $before" in
{body}
    esac
    [[ $current != -* && $words == -* ]] && words=$own
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _lemamba lemamba
"""


def _how_general(case: str) -> int:
    """Sort cases of options before those of places, and of these "prepare simulate" before "prepare"."""
    pattern = case.partition(")")[0]
    return 2 - pattern.count(" ", 8, -3) if pattern.endswith("*") else 0


def zsh(found: list[Place]) -> str:
    """Return the script for zsh, with descriptions."""
    cases = []
    for place in found:
        specs = [
            shlex.quote(f"{'*' if f.takes != 'nothing' else ''}{s}[{_zsh(f.text)}]{_zsh_value(f)}")
            for f in place.flags
            for s in f.spellings
        ]
        last = f"*: :({' '.join(place.positional)})" if place.positional else "*:file:_files"
        cases.append(
            f"        {shlex.quote(' '.join(place.words))}) _arguments {' '.join([*specs, shlex.quote(last)])} ;;"
        )
    lists = {
        name: " ".join(shlex.quote(f"{p.words[-1]}:{p.text}") for p in found if p.words[:-1] == above)
        for name, above in (("commands", ()), ("parts", ("prepare",)))
    }
    body = "\n".join(cases)
    return f"""#compdef lemamba
# Completion of lemamba for zsh; made by: lemamba completion zsh
_lemamba() {{
    local -a commands=({lists["commands"]})
    local -a parts=({lists["parts"]})
    local at=$words[2]
    (( CURRENT == 2 )) && {{ _describe command commands; return }}
    if [[ $at == prepare ]]; then
        (( CURRENT == 3 )) && {{ _describe command parts; return }}
        at="prepare $words[3]"
        shift words
        (( CURRENT-- ))
    fi
    shift words
    (( CURRENT-- ))
    case $at in
{body}
    esac
}}
if [[ $funcstack[1] == _lemamba ]]; then
    _lemamba "$@"
else
    compdef _lemamba lemamba
fi
"""


def _zsh(text: str) -> str:
    return text.replace("[", r"\[").replace("]", r"\]")


def _zsh_value(flag: Flag) -> str:
    if flag.takes == "words":
        return f":name:({' '.join(flag.words)})"
    return {"nothing": "", "file": ":file:_files", "value": ":value: "}[flag.takes]


def fish(found: list[Place]) -> str:
    """Return the script for fish, with descriptions."""
    return "".join(f"{line}\n" for line in (_FISH_HEAD.strip(), *_fish_lines(found)))


_FISH_HEAD = """
# Completion of lemamba for fish; made by: lemamba completion fish
function __lemamba_at
    set -l words (commandline -opc)
    test (count $words) -gt (count $argv); or return 1
    set -l last (math (count $argv) + 1)
    test "$words[2..$last]" = "$argv"
end
"""


def _fish_lines(found: list[Place]) -> Iterator[str]:
    for place in found:
        above, at = place.words[:-1], f"__lemamba_at {' '.join(place.words)}"
        next_word = f"test (count (commandline -opc)) -eq {len(place.words)}"
        condition = f"__lemamba_at {' '.join(above)}; and {next_word}" if above else next_word
        yield f"complete -c lemamba -f -n {_fish(condition)} -a {place.words[-1]} -d {_fish(place.text)}"
        if place.positional and not any(other.words[:-1] == place.words for other in found):
            yield f"complete -c lemamba -f -n {_fish(at)} -a {_fish(' '.join(place.positional))}"
        for flag in place.flags:
            names = " ".join(
                f"-l {s[2:]}" if s.startswith("--") else f"-s {s[1:]}" if len(s) == 2 else f"-o {s[1:]}"
                for s in flag.spellings
            )
            takes = {"nothing": "", "file": " -r -F", "value": " -x", "words": f" -x -a {_fish(' '.join(flag.words))}"}
            yield f"complete -c lemamba -n {_fish(at)} {names}{takes[flag.takes]} -d {_fish(flag.text)}"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def run(options: CompletionOptions) -> int:
    """Print the script; return the exit status."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[options.shell](places()), end="")
    return 0
