"""safedlv's terminal, used in a real one: typed in, completed, resized, interrupted, left; and what goes wrong there.

After each the target is looked at: it runs, untraced, with the text of its file.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path

import pytest

from tests.live.terminals import PROMPT, Terminal, assert_as_before, attached
from tests.live.test_session import LINE, SOURCE, _window, in_background, version_flags
from tests.support import Server, our_processes, status, wait_until

ENDED = "ended with "


def ours(word: bytes) -> int:
    """The process of this session that has such a word in its command line."""

    def found() -> int:
        return next((p for p in our_processes() if word in Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")), 0)

    return wait_until(found, f"a process of {word!r}")


def runs(server: Server) -> bool:
    return status(server.pid, "State")[:1] != "t"


def to_a_breakpoint(terminal: Terminal, server: Server) -> None:
    """At main.greeting, with a request under way."""
    terminal.command(f"break {SOURCE}:{LINE}", "Breakpoint 1 set at")
    in_background(server.get)
    terminal.command("continue", "main.greeting()")


def test_a_session(dlv: str, server: Server, tmp_path: Path) -> None:
    """Typing, completion of commands, functions, fields, breakpoints; the colours of dlv; the status line; exit."""
    with attached(server, tmp_path, *version_flags(dlv), TERM="xterm-256color") as terminal:
        terminal.shows("Type 'help' for list of commands.")
        terminal.shows(PROMPT, last=True)
        terminal.keys("bre", "Tab")
        terminal.shows(" breakpoints ")
        terminal.keys("C-c")
        terminal.keys("break main.gr", "Tab")
        terminal.shows(f"{PROMPT} break main.greeting")
        terminal.keys("Enter")
        terminal.shows("Breakpoint 1 set at")
        in_background(server.get)
        terminal.command("continue", "main.greeting()")
        assert re.search(r"stopped \d+ s │ goroutine \d+ │ main\.go:\d+ │ guard on", terminal.screen())
        assert re.search(r"\x1b\[34m +\d+:", terminal.screen(colours=True))
        terminal.keys("C-l", "p v.", "Tab")
        terminal.shows('"/you"')
        terminal.keys("Pa", "Tab", "Enter")
        assert terminal.shows('\n"/you"').count("p v.Path") == 1
        terminal.keys("clear ", "Tab")
        terminal.shows(f"{PROMPT} clear 1")
        terminal.keys("Enter")
        terminal.shows("Breakpoint 1 cleared")
        terminal.keys("exit", "Enter")
        terminal.shows(f"{ENDED}0")
        assert "kill" not in terminal.screen()
    assert_as_before(server)


def test_history_across_sessions(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    with attached(server, tmp_path) as terminal:
        terminal.command("print 40 + 2", "\n42\n")
        terminal.command("goroutines", "goroutines]")
        terminal.line("q")
        terminal.shows(f"{ENDED}0")
    history = tmp_path / "safedlv" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with attached(server, tmp_path) as terminal:
        terminal.shows(PROMPT, last=True)
        terminal.keys("Up", "Up")
        terminal.shows(f"{PROMPT} goroutines")
        terminal.keys("C-c", "C-r")
        terminal.keys("40")
        terminal.shows("print 40 + 2")
        terminal.keys("Enter", "Enter")
        terminal.shows("\n42\n")
        terminal.keys("C-d")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_keys(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """Ctrl-C clears a line and halts what runs; a new size is dlv's too; what is typed ahead waits; Ctrl-D leaves."""
    with attached(server, tmp_path) as terminal:
        terminal.shows(PROMPT, last=True)
        terminal.keys("continue", "C-c")
        terminal.shows(PROMPT, last=True)
        terminal.resize(100, 30)
        wait_until(lambda: _window(ours(b"connect")) == (30, 100), "dlv's terminal has the new size")
        terminal.command("print 1 + 1", "\n2\n")
        terminal.line("continue")
        terminal.shows("running")
        assert runs(server)
        terminal.resize(90, 35)
        wait_until(lambda: _window(ours(b"connect")) == (35, 90), "dlv's terminal has the new size while it runs")
        terminal.keys("C-c")
        terminal.line("print 2 + 3")
        terminal.shows("\n5\n")
        terminal.shows("received SIGINT, stopping process")
        terminal.shows(PROMPT, last=True)
        terminal.keys("C-d")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_pasted_lines_a_file_and_a_question(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """Who asks in the middle of a command gets the next line; ``exit`` in a file asks nothing, and kills nothing."""
    init, script = tmp_path / "init", tmp_path / "script"
    init.write_text("print 20 + 3\n")
    script.write_text("print 30 + 4\nexit\n")
    with attached(server, tmp_path, f"--init={init}") as terminal:
        terminal.shows("\n23\n")
        terminal.shows(PROMPT, last=True)
        terminal.paste("print 100 + 1\nprint 200 + 2\n\nprint 300 + 3\n")
        terminal.shows("print 300 + 3")
        assert "\n101" not in terminal.screen()
        terminal.keys("Enter")
        assert f"\n101\n{PROMPT} print 200 + 2\n202\n{PROMPT} print 300 + 3\n" in terminal.shows("\n303\n")
        terminal.command("print 1", "\n1\n")
        terminal.keys("C-l")
        terminal.line("source -")
        terminal.shows(">>>")
        terminal.line("print(60 + 5)")
        assert ">>> print(60 + 5)\n65\n>>>" in terminal.shows("\n65\n>>>")
        terminal.keys("C-d")
        terminal.shows(PROMPT, last=True)
        terminal.line(f"source {script}")
        terminal.shows("\n34\n")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_an_editor_has_the_terminal(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """And the user's own TERM; so has a pager, which comes by itself."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "editing $1 on $TERM"\nread answer\necho "you said $answer"\n')
    editor.chmod(0o755)
    with attached(server, tmp_path, EDITOR=str(editor), PAGER="more", TERM="xterm-256color") as terminal:
        terminal.shows(PROMPT, last=True)
        terminal.line("edit main.main")
        terminal.shows("on xterm-256color")
        terminal.line("yes, me")
        terminal.shows("you said yes, me")
        terminal.shows(PROMPT, last=True)
        terminal.line("funcs runtime")
        terminal.shows("--More--")
        terminal.keys("q")
        terminal.shows(PROMPT, last=True)
        terminal.command("print 6 * 7", "\n42\n")
        terminal.line("exit")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_a_prompt_of_the_users_own(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    config = tmp_path / "dlv" / "config.yml"
    config.parent.mkdir()
    config.write_text('prompt: "frame $f> "\n')
    with attached(server, tmp_path, XDG_CONFIG_HOME=str(tmp_path)) as terminal:
        terminal.shows("frame 0>")
        terminal.line("print 6 * 7")
        terminal.shows("\n42\n")
        terminal.keys("C-d")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_a_target_that_ends(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """dlv says so, and its prompt goes on as ever."""
    with attached(server, tmp_path) as terminal:
        terminal.shows(PROMPT, last=True)
        terminal.line("continue")
        wait_until(lambda: runs(server), "it runs")
        server.process.send_signal(signal.SIGTERM)
        terminal.shows("has exited with status")
        terminal.shows("the program has exited")
        terminal.line("exit")
        terminal.shows(ENDED)
    assert server.process.wait(10) != 0


@pytest.mark.parametrize("running", [False, True])
def test_dlv_dies(newest_dlv: str, server: Server, tmp_path: Path, running: bool) -> None:
    with attached(server, tmp_path) as terminal:
        terminal.command(f"break {SOURCE}:{LINE}", "Breakpoint 1 set at")
        if running:
            terminal.line("continue")
            wait_until(lambda: runs(server), "it runs")
        os.kill(ours(b"--headless=true"), signal.SIGKILL)
        terminal.shows("dlv died; its target was brought home")
        assert f"{ENDED}137" in terminal.shows(ENDED)
    assert_as_before(server)


def test_a_dlv_that_does_not_answer(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """Completion gives up, and the prompt is there; so is the way out."""
    with attached(server, tmp_path) as terminal:
        terminal.shows(PROMPT, last=True)
        delve = ours(b"--headless=true")
        os.kill(delve, signal.SIGSTOP)
        terminal.keys("break main.gr", "Tab")
        terminal.keys("eet")
        terminal.shows(f"{PROMPT} break main.greet", within=3)
        os.kill(delve, signal.SIGCONT)
        terminal.keys("C-c", "C-d")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


@pytest.mark.parametrize(
    ("who", "sign", "code"),
    [("safedlv", signal.SIGTERM, 143), ("safedlv", signal.SIGKILL, 137), ("the prompt", signal.SIGKILL, 137)],
)
def test_a_signal(newest_dlv: str, server: Server, tmp_path: Path, who: str, sign: int, code: int) -> None:
    """The session ends in order, and the terminal is given back."""
    with attached(server, tmp_path) as terminal:
        to_a_breakpoint(terminal, server)
        prompt = int(status(ours(b"connect"), "PPid"))
        os.kill(prompt if who == "the prompt" else int(status(prompt, "PPid")), sign)
        terminal.shows(f"{ENDED}{code}")
        terminal.line("the terminal echoes again")
        terminal.shows("the terminal echoes again\nthe terminal echoes again")
    assert_as_before(server)


def test_a_pause_that_is_ended(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """It is said above the line that is being typed; Ctrl-C at the prompt halts then, and completion asks nothing."""
    with attached(server, tmp_path, "--max-pause=3s") as terminal:
        terminal.shows(PROMPT, last=True)
        terminal.keys("print 1")
        terminal.shows("s and goes on now: --max-pause=3s")
        terminal.shows(f"{PROMPT} print 1\n running")
        assert runs(server)
        terminal.keys("Enter")
        terminal.shows("dlv would not answer before it stops")
        terminal.command("help up", "Move the current frame up")
        terminal.keys("print m", "Tab", "C-c")
        terminal.shows("received SIGINT, stopping process")
        terminal.shows("stopped 0 s of 3 s")
        terminal.keys("C-d")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_the_terminal_goes(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """Closed at the prompt, at a breakpoint."""
    with attached(server, tmp_path) as terminal:
        to_a_breakpoint(terminal, server)
    assert_as_before(server)


def test_kill_asks(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    with attached(server, tmp_path) as terminal:
        terminal.shows(PROMPT, last=True)
        for answer in ("", "n"):
            terminal.keys("C-l")
            terminal.line("kill")
            terminal.shows(f"Kill process {server.pid}? [y/N]")
            terminal.line(answer)
            terminal.shows(PROMPT, last=True)
        assert server.process.poll() is None
        terminal.keys("C-l")
        terminal.line("kill")
        terminal.shows("[y/N]")
        terminal.line("y")
        terminal.shows(ENDED)
    assert server.process.wait(10) == -signal.SIGINT


def test_words_of_our_own(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    with attached(server, tmp_path) as terminal:
        terminal.command(":help", "safedlv attach --plain")
        terminal.command(":doctor", "nothing else is in the way of a debugger")
        assert f"process {server.pid} is held by this session's own dlv" in terminal.screen()
        terminal.line(":watch")
        terminal.shows(f"watching process {server.pid}")
        terminal.keys("x")
        terminal.command(":nothing", "there is no :nothing")
        terminal.line("exit -c")
        terminal.shows(f"{ENDED}0")
    assert_as_before(server)


def test_plain(newest_dlv: str, server: Server, tmp_path: Path) -> None:
    """dlv's own: its question, and nothing of ours."""
    with attached(server, tmp_path, "--plain") as terminal:
        terminal.shows(PROMPT)
        assert "guard" not in terminal.screen()
        terminal.line("exit")
        terminal.shows("Would you like to kill the process? [Y/n]")
        terminal.line("n")
        terminal.shows(f"{ENDED}0")
    assert not (tmp_path / "safedlv" / "history").exists()
    assert_as_before(server)
