"""The comparison with dlv, gdb and strace: what counts as having named a cause, and the table. Pure but for a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import comparison
from tests.comparison import KEYWORDS, Row, chosen, mark, markdown, marks, named, plain, shortened, told, totals

# What the tools really say, and what a generous reader takes from it.
SAID = {
    "Could not attach to pid 7: current user does not own the process": {"credentials"},
    "could not attach to pid 7: operation not permitted": set(),
    "Could not attach to pid 7: this could be caused by a kernel security setting, try writing "
    '"0" to /proc/sys/kernel/yama/ptrace_scope': {"yama"},
    "could not attach to pid 7: already being debugged by pid 8": {"already-traced"},
    "could not attach to pid 7: could not read auxiliary vector: open /proc/7/auxv: permission denied": {"proc-access"},
    "could not attach to pid 7: no such process": {"no-such-process"},
    "could not attach to pid 7: function not implemented": {"ptrace-unsupported"},
    "runtime/cgo: pthread_create failed: Resource temporarily unavailable": {"thread-limit"},
    "warning: process 7 is already traced by process 8\nptrace: Operation not permitted.": {"already-traced"},
    "warning: process 7 is a zombie - the process has already terminated": {"zombie"},
    "I refuse to debug myself!": {"self-attach"},
    "strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted": set(),
    "strace: I'm sorry, I can't let you do that, Dave.": {"self-attach"},
    "warning: opening /proc/PID/mem file for lwp 7.7 failed: Permission denied (13)": {"proc-access"},
    "Cannot access memory at address 0x7f": set(),
    "fork/exec /srv/dlv: cannot allocate memory": {"memory-limit"},
    "strace: Process 7 attached\nstrace: Process 7 detached": set(),
    "API server listening at: 127.0.0.1:40123": set(),
    "[New LWP 8]\nruntime.futex () at /usr/local/go/src/runtime/sys_linux_amd64.s:558": set(),
    "If your uid matches the uid of the target process, check the setting of /proc/sys/kernel/yama/ptrace_scope, "
    "or try again as the root user.": {"credentials", "yama"},
}
ROW = Row("sandbox", "a | scene", ("seccomp", "credentials"), "current user does not own it", "", None, ("seccomp",))


@pytest.mark.parametrize(("text", "causes"), SAID.items())
def test_what_a_text_names(text: str, causes: set[str]) -> None:
    assert named(text) == causes
    assert named(text.upper()) == causes


def test_there_are_words_for_every_cause_of_the_contract() -> None:
    contract = (
        "no-such-process zombie kernel-thread self-attach already-traced credentials not-dumpable capability-excess "
        "user-namespace seccomp yama apparmor selinux smack landlock frozen uninterruptible pid-namespace hidepid "
        "ptrace-unsupported proc-access signal-access thread-limit memory-limit delve-missing not-go wrong-process "
        "no-debug-info optimized delve-version"
    )
    assert set(KEYWORDS) == set(contract.split())
    for cause in ("zombie", "yama", "apparmor", "selinux", "smack", "landlock", "frozen", "hidepid", "seccomp"):
        assert cause in named(f"it is because of {cause}.")


@pytest.mark.parametrize(
    ("said", "truth", "expected"),
    [
        ({"a"}, {"a"}, "all"),
        ({"a", "b"}, {"a"}, "all"),
        ({"a"}, {"a", "b"}, "some"),
        ({"c"}, {"a", "b"}, "wrong"),
        (set(), {"a"}, "none"),
        (set(), set(), "none"),
    ],
)
def test_marks(said: set[str], truth: set[str], expected: str) -> None:
    assert mark(said, truth) == expected


def test_safedlv_is_held_to_more() -> None:
    assert marks(ROW) == {"dlv": "some", "gdb": "none", "safedlv": "some"}
    too_many = Row("sandbox", "x", ("seccomp",), None, None, None, ("seccomp", "yama"))
    assert marks(too_many) == {"safedlv": "wrong"}


def test_a_line_for_the_table() -> None:
    assert shortened("API server listening at: 127.0.0.1:1\nno\x1b[2J \n\nyes\n") == "no?[2J; yes"
    assert shortened(" \n") == "(nothing)"
    assert len(shortened("x" * 1000)) == comparison.SHOWN
    assert told("said", 1) == "said\n"
    assert "ended well" in told("", 0)
    assert "until it was told to end" in told("", 124)
    assert "killed" in told("", 137)
    assert "ended with 2" in told("", 2)


def test_the_tables() -> None:
    rows = [ROW, Row("vm", "other", ("yama",), "set ptrace_scope", "seccomp?", "", ("yama",))]
    assert totals(rows)[0] == "dlv named the right cause in 2 of 2 scenes, every cause in 1; only wrong ones in 0"
    assert totals(rows)[1] == "gdb named the right cause in 0 of 2 scenes, every cause in 0; only wrong ones in 1"
    assert totals(rows)[2].startswith("strace named the right cause in 0 of 1 scenes")
    page = markdown(rows)
    assert "| sandbox | a \\| scene | credentials, seccomp | **some**: current user does not own it |" in page
    assert "| not asked |" in page
    assert all(line.count(" | ") == 6 for line in page.splitlines() if line.startswith("| "))
    assert "    safedlv some  seccomp" in plain(rows)


def test_rows_come_back_as_they_were_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows"
    monkeypatch.setenv(comparison.FILE, str(file))
    comparison.record("vm", "é", {"yama"}, None, "a\nb", "", ["yama"])
    comparison.record("docker", "two", ["seccomp", "credentials"], "x", "y", "z", [])
    assert comparison.recorded(file) == [
        Row("vm", "é", ("yama",), None, "a\nb", "", ("yama",)),
        Row("docker", "two", ("credentials", "seccomp"), "x", "y", "z", ()),
    ]


def test_one_of_each_kind_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = {"one": "a", "two": "b", "three": "a", "none": ""}
    monkeypatch.delenv("SAFEDLV_LONG", raising=False)
    assert chosen(scenes, frozenset) == {"one", "two"}
    monkeypatch.setenv("SAFEDLV_LONG", "1")
    assert chosen(scenes, frozenset) == {"one", "two", "three"}
