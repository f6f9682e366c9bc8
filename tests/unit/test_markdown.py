"""A diagnosis to paste into an issue: read by a Markdown parser, and searched for what must not leave the machine."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from attrs import evolve, fields_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from safedlv.diagnosis.place import Place
from safedlv.diagnosis.remedies import fix
from safedlv.errors import printable
from safedlv.model import (
    Attempt,
    Cause,
    Cgroup,
    Delve,
    Diagnosis,
    GoBinary,
    Namespace,
    ProcessFacts,
    Rung,
    SecurityModules,
    Status,
    Step,
    Target,
    Tracer,
    Unknown,
)
from safedlv.report.markdown import document, escaped, fenced, scrubbed

NOT_READ = Unknown("ENODATA", "nothing")
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def diagnosis(
    *,
    name: str = "server",
    exe: str = "/srv/app",
    summary: str = "",
    evidence: str = "",
    why: str = "",
    label: str = "",
) -> Diagnosis:
    """A blocked attach, with text of others wherever there can be some."""
    status = Status(**dict.fromkeys(fields_dict(Status), NOT_READ))
    modules = SecurityModules(("yama",), label or None, None, None, 1, None, None)
    place_in_tree = {"path": "/user.slice/alice secret", "frozen_by": "/user.slice/alice secret"}
    cgroup = Cgroup(**{**dict.fromkeys(fields_dict(Cgroup), NOT_READ), **place_in_tree})  # type: ignore[arg-type]
    facts = ProcessFacts(
        7, True, evolve(status, name=name), (), 0, True, (Namespace("user", 1, True),), modules, cgroup, False
    )
    place = Place(7, 1, 1000, 1000, 1000, 1000, one_user=True, inside=True, container="my-web", service="billing")
    return Diagnosis(
        target=Target(7, 1, "docker", "my-web", 1),
        facts=facts,
        binary=GoBinary(exe, True, "go1.26.1", "main", True, False, False, False, False),
        delve=Delve("/home/alice/go/bin/dlv x", "1.27.1", "1.24", "1.27"),
        tracer=Tracer("container:0", 0, 0, 0),
        attempt=Attempt((Step("attach", "EPERM", 41),), (), 0, 0, True),
        verdict="blocked",
        causes=(
            Cause("credentials", "experiment", summary or "another user", (evidence or "rule: kernel/ptrace.c",)),
            Cause(
                "already-traced",
                "observed",
                "traced by 12 (strace -e secret=hunter2 /home/bob)",
                (),
                (("tracer_pid", 12),),
            ),
        ),
        checks=(),
        fix=fix(("user", "seccomp"), place, verified=True),
        missing=("proc: /home/carol cannot be read",),
        ladder=(Rung("apparmor", "refused", why or "it refuses"),),
    )


class Shown(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def shown(text: str) -> Shown:
    return Shown(PARSER.render(text))


# ---------------------------------------------------------------- the whole document


def test_what_it_holds() -> None:
    page = shown(document(diagnosis(), "6.1.0-9-amd64"))
    headings = re.findall(r"^#{2,} (.*)$", document(diagnosis(), "6.1.0-9-amd64"), re.MULTILINE)
    assert headings[0] == "safedlv doctor: blocked"
    assert headings[1:] == ["Causes", "Layers, in the kernel's order", "Fix", "Not taken on", "Versions"]
    for words in ("PTRACE_ATTACH", "EPERM", "another user", "kernel/ptrace.c", "1.27.1", "go1.26.1", "6.1.0-9-amd64"):
        assert words in page.words
    assert "docker exec -it --user 1000:1000 NAME dlv attach 1" in page.words
    assert "/srv/app" in page.words
    assert [tag for tag, _ in page.tags].count("table") == 2
    for runtime in ("docker", "compose", "host", "kubectl-debug"):
        assert f"\n{runtime}:\n" in document(diagnosis(), "6.1")


def test_what_stays_on_the_machine() -> None:
    """Other processes' command lines, other paths, the user's own names, from wherever they may come."""
    text = document(
        diagnosis(
            summary="/etc/passwd.d and ~/x and file:///root/y", evidence="/home/alice/go/bin/dlv x says so itself"
        ),
        "6.1",
    )
    for secret in (
        "alice",
        "bob",
        "carol",
        "hunter2",
        "secret",
        "strace",
        "passwd",
        "/root",
        "my-web",
        "billing",
        "/home",
    ):
        assert secret not in text, secret
    assert "the target is being traced by process 12" in text
    assert "dlv says so itself" in text
    assert "docker:NAME" in text


def test_what_may_be_told() -> None:
    d = diagnosis()
    for words in (
        "opening /proc/7/auxv: EACCES",
        "/srv/app is no Go program",
        "kernel/ptrace.c __ptrace_may_access, PTRACE_MODE_REALCREDS",
        "security/yama/yama_lsm.c",
        "uid 0/0/0",
        "/sys/kernel/security/lsm",
    ):
        assert scrubbed(d, words) == words
    assert scrubbed(d, "cgroup /user.slice/alice secret is frozen") == "cgroup PATH is frozen"
    assert scrubbed(d, "docker exec my-web, not my-web-2") == "docker exec NAME, not my-web-2"
    assert scrubbed(d, "see /usr/bin/x, (/opt/y) and '/z/w'") == "see PATH, (PATH) and 'PATH'"
    odd = diagnosis(exe="/my programs/a b")
    assert scrubbed(odd, "/my programs/a b is stripped, /my is not") == "/my programs/a b is stripped, PATH is not"


def test_a_process_of_our_own() -> None:
    d = evolve(
        diagnosis(), target=None, facts=None, binary=None, fix=None, causes=(), ladder=(), missing=(), delve=None
    )
    text = document(d, "6.1")
    assert "A process of safedlv's own" in text
    assert "- dlv: unknown" not in text
    assert "- dlv: none" in text
    assert "- Go of the target: unknown" in text


# ---------------------------------------------------------------- text of others

HOSTILE = (
    "`code`", "``", "|x|", "<script>alert(1)</script>", "<!-- x", "**bold**", "[a](http://x)", "![i](http://x/p.png)",
    "\x1b[31mred\x1b[0m", "a\nb\n# heading", "\u202eabc", "&lt;", "~~x~~", "$x$", "\\", "- x", "1. x", "https://evil.example",
    "www.evil.example", "@owner", "#1", "GH-1", "<a@b.c>", "    indented", "```\nfence", "</td>", "owner/repo#1",
)  # fmt: skip
ALLOWED_TAGS = {"h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong", "code", "pre"}
others = st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=80)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text: str) -> None:
    assert_only_text(text)


@settings(deadline=None)
@given(others, others)
def test_any_text_is_only_text(one: str, other: str) -> None:
    assert_only_text(one)
    plain = tags_of(document(diagnosis(), "6.1"))
    made = document(diagnosis(name=one, exe=other, summary=one, evidence=other, why=one, label=other), other)
    assert tags_of(made) == plain, "text of others makes no element and breaks none"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", made)


def tags_of(text: str) -> list[str]:
    found = shown(text).tags
    assert {tag for tag, _ in found} <= ALLOWED_TAGS
    return [tag for tag, _ in found]


def assert_only_text(text: str) -> None:
    """In a paragraph, a list and a table's cell: what is shown is what was given, less its control codes."""
    told = escaped(text)
    for before, after in (("x ", ""), ("- x ", ""), ("| a |\n|---|\n| x ", " |")):
        page = shown(before + told + after)
        assert {tag for tag, _ in page.tags} <= {"p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
        words = page.words.replace("\u200b", "")
        wanted = printable(text, 1000).replace("\u200b", "")
        assert "".join(wanted.split()) in "".join(words.split())
        references = re.search(r"@\w|#\d|://|www\.|GH-", page.words, re.IGNORECASE)
        assert not references, "GitHub makes a link or a mention of it"


@given(others)
def test_a_fence_holds(text: str) -> None:
    """Nothing in it ends a code block."""
    (tag, _), *rest = shown(fenced(text, "sh") + "\n\nafter").tags
    assert (tag, [name for name, _ in rest]) == ("pre", ["code", "p"])
