"""Words of a command line are the shell's own, and its options those that docker run takes."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedlv.lint.docker_run import containers
from safedlv.lint.words import options_of, words_at
from tests.support import require

PIECES = st.sampled_from(
    [
        *(
            "a",
            "--x=1",
            "b c",
            "it's",
            'say "x"',
            "$HOME",
            "`id`",
            "\\",
            "#",
            ";",
            "|",
            "&",
            "(",
            ")",
            "<",
            ">",
            "*",
            "\t",
        ),
        *("é", "=", "-", "~", "!", "{}", "\n"),
    ]
)


def single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def double(text: str) -> str:
    return '"' + "".join(f"\\{c}" if c in '\\"$`' else c for c in text) + '"'


def escaped(text: str) -> str:
    return "".join("'\n'" if c == "\n" else f"\\{c}" for c in text)


PART = st.tuples(PIECES, st.sampled_from([single, double, escaped])).map(lambda part: part[1](part[0]))
WORD = st.lists(PART, min_size=1, max_size=3).map("".join)
LINE = st.lists(st.tuples(WORD, st.sampled_from([" ", "\t", " \\\n ", "\\\n\t"])), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(LINE)
def test_as_the_shell_reads_them(parts: list[tuple[str, str]]) -> None:
    line = "".join(word + blank for word, blank in parts)
    done = subprocess.run(["sh", "-c", f'f() {{ printf "%s\\0" "$@"; }}; f {line}'], capture_output=True, check=True)
    words = words_at(f"f {line}", 0)
    assert [word.text for word in words[1:]] == done.stdout.decode().split("\0")[:-1]
    assert all(word.known for word in words)
    assert [word.line for word in words] == [f"f {line}".count("\n", 0, word.start) + 1 for word in words]


@pytest.mark.parametrize("rest", ["", " # --x", "; --x", " && --x", " | --x", "\n--x", ")", " > --x"])
def test_where_a_command_ends(rest: str) -> None:
    assert [word.text for word in words_at(f"a b{rest}", 0)] == ["a", "b"]


@pytest.mark.parametrize("word", ["$A", "${A:-b}", '"$A"', "$(id -u)", '"$(id "-u")"', "`id`", "a$1", "$(a; (b))c"])
def test_what_is_not_known(word: str) -> None:
    first, second = words_at(f"{word} next", 0)
    assert (first.known, second.text) == (False, "next")


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("docker run web --privileged", "web"),
        ("docker --context far -D container run -itd -e A=1 -p80:80 --name=x web", "web"),
        ("docker run -it --rm -v /a:/b -w /b --user 1 --entrypoint sh web -c x", "web"),
        ("docker run $OPTIONS -d $IMAGE:latest serve", "$IMAGE:latest"),
        ("docker run $IMAGE", "$IMAGE"),
        ("docker run $IMAGE --privileged", "$IMAGE"),
        ('docker run "${options[@]}" web', "web"),
        ("docker run --init --read-only --pull never web", "web"),
    ],
)
def test_where_the_image_is(line: str, image: str) -> None:
    (container,) = containers(line)
    assert container.name == f"docker run {image}"
    assert container.privileged is None


@pytest.mark.parametrize(
    "line",
    [
        *("docker ps", "docker run", "docker run --help", "docker-run web", "mydocker run web", "see docker.run web"),
        *("docker compose run web", "docker image create web"),
    ],
)
def test_what_is_no_run(line: str) -> None:
    assert containers(line) == ()


def test_the_options_without_a_value_are_the_clients() -> None:
    """docker run --help names a type after each option that takes a value."""
    require(shutil.which("docker"), "needs the docker client")
    done = subprocess.run(["docker", "run", "--help"], capture_output=True, text=True, check=True, timeout=20)
    rows = re.findall(r"^ +(?:-\w, )?--(\S+)( \S+)?(?: {2,}|$)", done.stdout, re.MULTILINE)
    assert len(rows) > 80
    for name, kind in rows:
        words = words_at(f"--{name} next", 0)
        option = options_of(words, image=not kind)[0][0]
        assert len(option.words) == 1 + bool(kind), name
