"""safedlv attach beside the real dlv attach, old and new: the same words give the same exit code and the same text."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import JsonRpc
from tests.live.leftovers import nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.support import SAFEDLV, Server, assert_unharmed, left_as_found, status, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

LISTENING = "API server listening at: "
REMOTE = "Listening for remote connections (connections are not authenticated nor encrypted)"


class Said:
    """What a command answered, with what differs between any two runs taken out."""

    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code = code
        self.out = alike(out)
        self.err = alike(err)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Said) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"exit {self.code}\nstdout: {self.out}\nstderr: {self.err}"


def alike(text: str) -> str:
    text = re.sub(r":\d{4,5}\b", ":PORT", text)
    text = re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", text, flags=re.MULTILINE)
    return re.sub(r"(lookup \S+) on [\d.:]+:", r"\1:", text)  # Go names the name server that it asked


def run(command: list[str], within: float = 20) -> Said:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def both(dlv: str, words: list[str], before: list[str] | None = None) -> tuple[Said, Said]:
    """What dlv and what safedlv say to the same words after ``attach`` (and before it)."""
    return run([dlv, *(before or []), "attach", *words]), run([*SAFEDLV, *(before or []), "attach", *words])


@pytest.fixture
def pid(server: Server) -> Iterator[str]:
    """The server's PID; it is unharmed afterwards."""
    yield str(server.pid)
    assert_unharmed(server.pid)
    assert "hello" in server.get()


# ---------------------------------------------------------------- words that dlv refuses before it does anything

REFUSED = [
    "",
    "--headless",
    "--nonsense PID",
    "--headless --nonsense PID",
    "--headless --nonsense 3 PID",
    "-x PID",
    "-hx",
    "--help --nonsense",
    "--headless=maybe PID",
    "--headless= PID",
    "--api-version=abc --headless PID",
    "--api-version= --headless PID",
    "--headless PID --listen",
    "-l",
    "---headless PID",
    "--=x PID",
    "abc",
    "abc --headless",
    "0x10 --headless",
    "1_0 --headless",
    "99999999999999999999999999 --headless",
    "--continue PID",
    "--continue --headless=false PID",
    "--continue --headless PID",
    "PID",
    "--accept-multiclient PID",
    "--headless=f PID",
    "--log-output=rpc PID",
    "--log-output=rpc --headless PID",
    "--log-dest=/nonexistent/dir/log --headless PID",
    "--log-dest=/nonexistent/dir/log PID",
    "-r a -r b --headless PID",
    "--api-version=3 --headless PID",
    "--api-version=1_0 --headless PID",
    "-lfoo --help=1 --api-version=z PID",
]


@pytest.mark.parametrize("words", REFUSED)
def test_refused_in_dlvs_words(dlv: str, pid: str, words: str) -> None:
    theirs, ours = both(dlv, words.replace("PID", pid).split())
    assert ours == theirs
    assert theirs.out + theirs.err


def test_an_empty_word_is_no_pid(dlv: str) -> None:
    theirs, ours = both(dlv, ["--headless", ""])
    assert ours == theirs == Said(1, "", "Invalid pid: \n")


@pytest.mark.parametrize(
    "before", [["--headless"], ["--headless", "--continue=1"], ["--api-version", "3", "--headless"]]
)
def test_flags_before_the_command(dlv: str, pid: str, before: list[str]) -> None:
    theirs, ours = both(dlv, ["abc"], before)
    assert ours == theirs
    assert theirs.out + theirs.err


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--headless", "--help=true", "7"], ["-hl", "7"]])
def test_help_begins_with_dlvs(dlv: str, words: list[str]) -> None:
    theirs, ours = both(dlv, words)
    assert (ours.code, theirs.code) == (0, 0)
    assert ours.out.startswith(theirs.out)
    assert "--probe-timeout" in ours.out.removeprefix(theirs.out)
    assert ours.err == theirs.err == ""


def test_a_value_of_our_own_flags_is_refused_by_us(dlv: str, pid: str) -> None:
    said = run([*SAFEDLV, "attach", "--headless", "--probe-timeout=nan", pid])
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("safedlv: --probe-timeout is in seconds")


# ---------------------------------------------------------------- addresses that cannot be listened on

MALFORMED = [
    "foo",
    "1:2:3",
    "127.0.0.1:99999",
    "127.0.0.1:-1",
    "127.0.0.1:nosuchservice",
    "nosuchhost.invalid:0",
    "[::1",
    "[::1]",
    "[::1]x:0",
    "[[::1]:0",
    "::1:0",
    "x]:0",
    "a[b:0",
    "256.1.1.1:0",
    "127.1:0",
    "1.2.3.4:0",
    "[fe80::1%lo]:0",
]


@pytest.fixture
def in_use() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def assert_listener_refused(theirs: Said, ours: Said) -> None:
    assert theirs.out.startswith("couldn't start listener: listen ")
    assert ours == theirs


@pytest.mark.parametrize("address", MALFORMED)
def test_a_malformed_address(dlv: str, pid: str, address: str) -> None:
    assert_listener_refused(*both(dlv, ["--headless", f"--listen={address}", pid]))


def test_an_address_in_use(dlv: str, pid: str, in_use: str) -> None:
    assert_listener_refused(*both(dlv, ["--headless", "-l", in_use, pid]))


@pytest.mark.parametrize("name", ["exists", "missing/dir", "x" * 120])
def test_a_unix_path_that_cannot_be(newest_dlv: str, pid: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "exists").touch()
    assert_listener_refused(*both(newest_dlv, ["--headless", f"--listen=unix:{tmp_path}/{name}", pid]))
    assert sorted(os.listdir(tmp_path)) == ["exists"]


# ---------------------------------------------------------------- sessions


class Client(JsonRpc):
    """One that knows abstract unix sockets too."""

    def __init__(self, address: str) -> None:
        if not address.startswith("@"):
            super().__init__(address.replace("[::]", "[::1]"))
            return
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect("\0" + address[1:])
        self.file = self.socket.makefile("rb")
        self.number = 0


class Session:
    """A headless dlv or safedlv."""

    def __init__(self, command: list[str], pid: str, log: Path | None = None) -> None:
        self.log, self.pid, self.ours = log, int(pid), command[0] == SAFEDLV[0]
        self.address = ""
        self.process = subprocess.Popen(
            [word.replace("PID", pid) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def shown(self) -> str:
        """The address that it shows, its port left out."""
        assert self.process.stdout is not None
        line = wait_until(self._logged, "a line in the log") if self.log else self.process.stdout.readline()
        assert line.startswith(LISTENING), line + self.process.communicate()[1]
        self.address = line.removeprefix(LISTENING).strip()
        return re.sub(r"^@[0-9a-f]{5}$", "@AUTO", alike(self.address))

    def _logged(self) -> str:
        assert self.log is not None
        line, newline, _ = self.log.read_text().partition("\n") if self.log.exists() else ("", "", "")
        return line if newline else ""

    def detach(self) -> Said:
        """Let a client end it; returns what it had to say about the whole session."""
        client = Client(self.address)
        client.use_version_2()
        client.detach()
        out, err = self.process.communicate(timeout=20)
        return Said(self.process.returncode, out, self._without_the_last(err))

    def _without_the_last(self, err: str) -> str:
        """safedlv's stderr but for its last line, which says how it left the target: dlv has none."""
        if not self.ours:
            return err
        assert err.endswith(left_as_found(self.pid))
        return err.removesuffix(left_as_found(self.pid))

    def end(self) -> None:
        """Whatever became of the test: detach, and be gone."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def sessions(dlv: str, pid: str, words: str, before: str = "", log: Path | None = None) -> tuple[str, Said, Said]:
    """The same session by dlv and by safedlv, one after the other: the address they showed, and what they said."""
    answers = []
    for program in ([dlv], SAFEDLV):
        session = Session([*program, *before.split(), "attach", *words.split()], pid, log)
        try:
            answers.append((session.shown(), session.detach()))
        finally:
            session.end()
        if log is not None:
            log.unlink()
    (theirs_shown, theirs), (ours_shown, ours) = answers
    assert ours_shown == theirs_shown
    return ours_shown, theirs, ours


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--headless PID", "127.0.0.1:PORT"),
        ("--headless=true PID", "127.0.0.1:PORT"),
        ("--headless=1 --listen=localhost:0 PID", "127.0.0.1:PORT"),
        ("PID --headless -l localhost:", "127.0.0.1:PORT"),
        ("-l127.0.0.2:0 --headless -- PID", "127.0.0.2:PORT"),
        ("--headless --listen [::1]:0 PID", "[::1]:PORT"),
        ("--headless --listen=[::ffff:127.0.0.1]:0 PID", "127.0.0.1:PORT"),
        ("--headless --listen=127.0.0.1:+0 PID", "127.0.0.1:PORT"),
        ("--headless --only-same-user=false PID", "127.0.0.1:PORT"),
        ("--headless --api-version=0x2 PID", "127.0.0.1:PORT"),
        ("--headless --api-version=02 PID", "127.0.0.1:PORT"),
        ("--headless PID /no/such/executable", "127.0.0.1:PORT"),
        ("--headless --check-go-version=false --wd=/nonexistent +PID", "127.0.0.1:PORT"),
    ],
)
def test_a_session_in_other_words(dlv: str, pid: str, words: str, shown: str) -> None:
    address, theirs, ours = sessions(dlv, pid, words)
    assert address == shown
    assert (ours.code, ours.out) == (theirs.code, theirs.out) == (0, "")
    assert theirs.err == ours.err or "1.20" in dlv_version(dlv), "only the old dlv complains of our connections"


@pytest.mark.parametrize("address", [":0", "[::]:0", "0.0.0.0:0", ""])
def test_a_session_on_every_address(dlv: str, pid: str, address: str) -> None:
    shown, theirs, ours = sessions(dlv, pid, f"--headless --listen={address} PID")
    assert shown == "[::]:PORT"
    assert REMOTE in theirs.err
    assert REMOTE in ours.err
    assert (ours.code, theirs.code) == (0, 0)


def test_a_session_with_flags_before_the_command(dlv: str, pid: str) -> None:
    shown, theirs, ours = sessions(dlv, pid, "PID", before="--headless --listen localhost:0")
    assert shown == "127.0.0.1:PORT"
    assert (ours.code, theirs.code) == (0, 0)


@pytest.mark.parametrize("address", ["TMP/s", "@safedlv-PID", ""])
def test_a_session_on_a_unix_socket(newest_dlv: str, pid: str, tmp_path: Path, address: str) -> None:
    address = address.replace("TMP", str(tmp_path))
    shown, theirs, ours = sessions(newest_dlv, pid, f"--headless --listen=unix:{address} PID")
    assert shown == (alike(address.replace("PID", pid)) or "@AUTO")
    assert ours == theirs
    assert not os.listdir(tmp_path)


def test_a_log_file_takes_the_listening_line(dlv: str, pid: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shown, theirs, ours = sessions(dlv, pid, f"--headless --log-dest={log} PID", log=log)
    assert shown == "127.0.0.1:PORT"
    assert (ours.code, ours.out) == (theirs.code, theirs.out) == (0, "")


def test_api_version_1(dlv: str, pid: str) -> None:
    """The old dlv has it, the new one refuses it after it said where it listens."""
    words = ["--headless", "--api-version=1", pid]
    if "1.20" in dlv_version(dlv):
        _, theirs, ours = sessions(dlv, pid, " ".join(words))
        assert (ours.code, theirs.code) == (0, 0)
        return
    theirs, ours = both(dlv, words)
    assert ours == theirs
    assert theirs.err == "unknown API version\n"


def test_a_backend_that_safedlv_does_not_know_is_dlvs(dlv: str, pid: str) -> None:
    theirs, ours = both(dlv, ["--headless", "--backend=nonsense", pid])
    assert ours == theirs
    assert 'unknown backend "nonsense"' in theirs.err


def test_own_flags_do_not_hide_what_dlv_says(dlv: str) -> None:
    theirs = run([dlv, "attach", "abc"])
    assert run([*SAFEDLV, "attach", "--probe-timeout", "1", "--no-proxy", "abc"]) == theirs


def test_an_ignored_init_file(newest_dlv: str, pid: str) -> None:
    _, theirs, ours = sessions(newest_dlv, pid, "--headless --init=/nonexistent PID")
    assert ours.err == theirs.err == "Warning: init file ignored with --headless\n"


def test_a_log_descriptor_that_is_not_open(newest_dlv: str, server: Server) -> None:
    """dlv writes into the void, and serves."""
    session = Session([*SAFEDLV, "attach", "--headless", "--log-dest=7", "PID"], str(server.pid))
    try:
        wait_until(lambda: session.process.poll() is not None or traced_by_dlv(server.pid), "dlv attaches")
        assert session.process.poll() is None
        session.process.terminate()
        assert session.process.wait(10) == 0
    finally:
        session.end()


def test_a_log_in_a_directorys_place(dlv: str, pid: str) -> None:
    theirs, ours = both(dlv, ["--log-dest=/", "--headless", pid])
    assert ours == theirs


def traced_by_dlv(pid: int) -> bool:
    """The probe traces it first, from a Python process."""
    tracer = status(pid, "TracerPid")
    return tracer not in ("", "0") and not status(int(tracer), "Name").startswith("python")


def dlv_version(dlv: str) -> str:
    return subprocess.check_output([dlv, "version"], text=True)
