"""Every command line that a page shows has the verb and the options that the program takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from yolo_trt_node.replay import bag_detect, bag_labels

from yolo_compress.cli import app
from yolo_trt_node import build_engine, time_model

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")])
VERBS = typer.main.get_command(app).commands
PARSERS = {
    "bag_detect": bag_detect._parser,
    "bag_labels": bag_labels._parser,
    "build_engine": build_engine._parser,
    "time_model": time_model._parser,
}


def lines(page: Path) -> list[str]:
    """Give the command lines of a page's shell blocks, continuations joined and comments taken off."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def shown(program: str) -> list[tuple[str, str]]:
    """Give where a program is called, and with what."""
    pattern = re.compile(rf"(?:^|[\s;&]){program}\s+(.*)")
    found = []
    for page in PAGES:
        for line in lines(page):
            match = pattern.search(line)
            if match and not re.search(r"#.*" + program, line.split(program)[0]):
                found.append((str(page.relative_to(ROOT)), match[1]))
    return found


def options(words: str) -> list[str]:
    """Give the options of a command line, without their values."""
    tokens = shlex.split(re.split(r"\s[|>]|\s&&|;", words)[0], comments=True)
    return [token.partition("=")[0] for token in tokens if re.match(r"--?[a-z]", token)]


def epilogs() -> list[tuple[str, str]]:
    """Give the example under each verb's help."""
    found = []
    for name, command in VERBS.items():
        for example in re.findall(r"yolo-compress (.*)", command.epilog or ""):
            found.append((f"yolo-compress {name} --help", example))
    return found


@pytest.mark.parametrize(("where", "words"), [*shown("yolo-compress"), *epilogs()])
def test_verbs_and_their_options_exist(where, words):
    verb, *rest = words.split()
    if verb.startswith(("-", "VERB")):
        return
    assert verb in VERBS, f"{where}: yolo-compress has no verb {verb}"
    command = VERBS[verb]
    inner = getattr(command, "commands", {})
    if inner:
        assert rest[0] in inner, f"{where}: yolo-compress {verb} has no {rest[0]}"
        command = inner[rest[0]]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for option in options(words):
        assert option in known, f"{where}: yolo-compress {verb} has no {option}"


@pytest.mark.parametrize("program", PARSERS)
def test_options_of_the_node_s_programs_exist(program):
    known = set(PARSERS[program]()._option_string_actions)
    calls = shown(program)
    assert calls, f"no page shows {program}"
    for where, words in calls:
        for option in options(words):
            assert option in known, f"{where}: {program} has no {option}"


def test_pages_show_commands():
    assert len(shown("yolo-compress")) > 10
