"""Delve's own tests with plain dlv, and again with shims/dlv in its place: what passes with one must with the other.

    python -m tests.delve [--only REGEXP] [--suite cmd|dap]

Delve's source is the module of the dlv at hand, copied from Go's module cache and changed in two places:
``getDlvBinInternal`` (pkg/proc/test) puts the shim where it has built dlv, and ``startDAPServerWithClient``
(service/dap), which makes a server in the test's own process, starts a ``dlv dap`` instead. So cmd/dlv judges the
command line, and service/dap every session whose test needs nothing but a client. Left out are those that look into
the file dlv, which is a script here, or put hooks into a server of their own process; and one that fails by itself.

Known to differ: TestBadAttachRequest, in two of its questions. It asks for dlv's words where no process is named and
where processId is "1"; safedlv lists the processes there are, takes "1", and says in the console why that is refused.

Prints each difference with what the test said; exit code 1 when there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT, new_dlv

MODULE = "github.com/go-delve/delve"
WORK = ROOT / ".cache" / "delve"
SHIM = ROOT / "shims" / "dlv"
STANDS_IN = "SAFEDLV_TESTS_STANDS_IN"
"""In the environment of a test binary: what is to stand where dlv would; empty: dlv itself."""
LEFT_OUT = {
    "cmd": ("TestDeadcodeEliminated", "TestTraceBackendParity"),
    "dap": ("TestHaltPreventsAutoResume",),
}
KNOWN_TO_DIFFER = ("TestBadAttachRequest",)
SUITES = {"cmd": "cmd/dlv", "dap": "service/dap"}
LONGEST = 600  # seconds for one suite; then Go says which test it is that does not end

AFTER_BUILD = """		t.Fatalf("go %s: %v\\n%s", strings.Join(args, " "), err, string(out))
	}
"""
SHIM_AFTER_BUILD = (
    AFTER_BUILD
    + f"""
	if shim := os.Getenv("{STANDS_IN}"); shim != "" {{
		real := dlvbin + ".real"
		AddPathToRemove(real)
		if err := os.Rename(dlvbin, real); err != nil {{
			t.Fatal(err)
		}}
		script := "#!/bin/sh\\nSAFEDLV_DLV='" + real + "' exec '" + shim + "' \\"$@\\"\\n"
		if err := os.WriteFile(dlvbin, []byte(script), 0o755); err != nil {{
			t.Fatal(err)
		}}
	}}
"""
)
START = (
    "func startDAPServerWithClient("
    "t *testing.T, defaultDebugInfoDirs bool, serverStopped chan struct{}) *daptest.Client {\n"
)
START_PROCESS = (
    START
    + f"""	if os.Getenv("{STANDS_IN}_DAP") != "" {{
		return startDAPProcess(t, os.Getenv("{STANDS_IN}_DAP"), serverStopped)
	}}
"""
)
DAP_PROCESS = """package dap

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-delve/delve/service/dap/daptest"
)

func startDAPProcess(t *testing.T, dlv string, serverStopped chan struct{}) *daptest.Client {
	t.Helper()
	cmd := exec.Command(dlv, "dap", "--listen=127.0.0.1:0")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(stdout)
	line, err := reader.ReadString('\\n')
	if err != nil {
		t.Fatalf("no listening line: %v", err)
	}
	addr := strings.TrimSpace(strings.TrimPrefix(line, "DAP server listening at: "))
	go func() {
		io.Copy(io.Discard, reader)
		cmd.Wait()
		if serverStopped != nil {
			close(serverStopped)
		}
	}()
	return daptest.NewClient(addr)
}
"""

Outcomes = dict[str, tuple[str, str]]
"""By test: PASS, FAIL or SKIP, and what it said."""


def main() -> int:
    """Run what is asked for; the exit code."""
    options = argparse.ArgumentParser(prog="python -m tests.delve")
    options.add_argument("--only", default="", help="a regular expression for the names of tests")
    options.add_argument("--suite", choices=[*SUITES, ""], default="")
    given = options.parse_args()
    dlv = new_dlv()
    if dlv is None:
        sys.exit("there is no dlv here: make tools")
    source = prepared(version_of(dlv))
    different = 0
    for suite in [given.suite] if given.suite else SUITES:
        binary = built_test(source, suite)
        plain = run(source, suite, binary, given.only, shim="")
        shimmed = run(source, suite, binary, given.only, shim=str(SHIM))
        different += compare(suite, plain, shimmed)
    return 1 if different else 0


def version_of(dlv: str) -> str:
    """The version of a dlv as a module's: ``v1.27.2``."""
    said = subprocess.run([dlv, "version"], capture_output=True, text=True, check=True).stdout
    return "v" + said.partition("Version: ")[2].split()[0]


def prepared(version: str) -> Path:
    """Delve's source with the two changes, and the dlv that is built from it."""
    source = WORK / version
    if not (source / "dlv").exists():
        said = go("mod", "download", "-json", f"{MODULE}@{version}", cwd=ROOT)
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(json.loads(said)["Dir"], source, copy_function=shutil.copyfile)
        for path in (source, *source.rglob("*")):
            path.chmod(0o755)
        change(source / "pkg/proc/test/support.go", AFTER_BUILD, SHIM_AFTER_BUILD)
        change(source / "service/dap/server_test.go", START, START_PROCESS)
        (source / "service/dap/process_test.go").write_text(DAP_PROCESS)
        go("build", "-o", "dlv", "./cmd/dlv", cwd=source)
    return source


def change(path: Path, old: str, new: str) -> None:
    """Change a text that must be there once."""
    text = path.read_text()
    if text.count(old) != 1:
        sys.exit(f"{path}: this Delve is another one than these tests know")
    path.write_text(text.replace(old, new))


def go(*words: str, cwd: Path) -> str:
    """What the go command printed."""
    return subprocess.run(["go", *words], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def built_test(source: Path, suite: str) -> Path:
    """The compiled tests of a package."""
    binary = source / f"{suite}.test"
    go("test", "-c", "-o", str(binary), f"./{SUITES[suite]}", cwd=source)
    return binary


def run(source: Path, suite: str, binary: Path, only: str, shim: str) -> Outcomes:
    """Run a suite, with plain dlv or with a shim."""
    scratch = source / f"tmp-{suite}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        STANDS_IN: shim,
        f"{STANDS_IN}_DAP": shim or str(source / "dlv"),
        "SAFEDLV_DLV": str(source / "dlv"),
    }
    left_out = "^(" + "|".join(LEFT_OUT[suite]) + ")$"
    words = [str(binary), "-test.v", f"-test.timeout={LONGEST}s", f"-test.run={only}", f"-test.skip={left_out}"]
    log = source / f"{suite}-{'shim' if shim else 'plain'}.log"
    print(f"== {SUITES[suite]} with {shim or 'plain dlv'}: {log}", flush=True)
    with log.open("w") as file:
        tests = subprocess.Popen(
            words, cwd=source / SUITES[suite], env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            tests.wait(LONGEST + 60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tests.pid, signal.SIGKILL)  # what a test left behind, too
            tests.wait()
    found = outcomes(log.read_text("utf-8", "backslashreplace"))
    counts = {what: sum(result == what for result, _ in found.values()) for what in ("PASS", "FAIL", "SKIP")}
    print("   " + ", ".join(f"{number} {what}" for what, number in counts.items()), flush=True)
    return found


def outcomes(log: str) -> Outcomes:
    """What became of each test. A test that is named and has no outcome did not end."""
    found: Outcomes = {}
    said: dict[str, list[str]] = {}
    current = ""
    for line in log.splitlines():
        if named := re.match(r"=== (?:RUN|CONT|NAME) +(\S+)", line):
            current = named[1]
            found.setdefault(current, ("FAIL", "it did not end"))
        elif ended := re.match(r" *--- (PASS|FAIL|SKIP): (\S+)", line):
            found[ended[2]] = (ended[1], "\n".join(said.get(ended[2], [])))
            current = ended[2]
        elif current:
            said.setdefault(current, []).append(line)
    return {name: (what, "\n".join(said.get(name, [text]))) for name, (what, text) in found.items()}


def compare(suite: str, plain: Outcomes, shimmed: Outcomes) -> int:
    """Print what passed with plain dlv and does not with the shim; how many those are."""
    passed = [name for name, (what, _) in plain.items() if what == "PASS" and name not in KNOWN_TO_DIFFER]
    worse = [name for name in passed if shimmed.get(name, ("FAIL", ""))[0] != "PASS"]
    for name in worse:
        what, text = shimmed.get(name, ("FAIL", "it was not run"))
        print(f"-- {SUITES[suite]} {name}: PASS with plain dlv, {what} with the shim\n{text[-3000:]}")
    print(f"== {SUITES[suite]}: {len(plain)} tests, {len(worse)} worse with the shim", flush=True)
    return len(worse)


if __name__ == "__main__":
    sys.exit(main())
