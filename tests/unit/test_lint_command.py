"""``safedlv seccomp lint``: words, exit codes, what cannot be read, and what it writes where."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safedlv.errors import SafedlvError, UsageError
from safedlv.lint_command import lint
from tests.support import SAFEDLV
from tests.unit.lint_files import NO_PTRACE

PRIVILEGED = "services:\n  web:\n    image: web\n    privileged: true\n"
REFUSING = "services:\n  web:\n    image: web\n    security_opt: [seccomp=./strict.json]\n"


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def unread(capsys: pytest.CaptureFixture[str], path: str) -> tuple[int, str]:
    """Its line (0: none) and the sentence."""
    assert lint([path, "--json"]) == 2
    (one,) = json.loads(capsys.readouterr().out)["unread"]
    return one["line"] or 0, one["reason"]


def test_as_a_command_of_its_own(tmp_path: Path) -> None:
    words = [*SAFEDLV, "seccomp", "lint", write(tmp_path / "compose.yaml", PRIVILEGED)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (1, "")
    assert "compose.yaml:4: warning: service web: privileged" in done.stdout
    assert "-    privileged: true\n" in done.stdout
    assert "+      - SYS_PTRACE\n" in done.stdout
    assert "kernel.yama.ptrace_scope" in done.stdout


@pytest.mark.parametrize(
    "words",
    [["--fix", "-"], ["--override", "x.yaml"], ["x.yaml", "--json", "--sarif"], [], ["x.yaml", "--allow", "all"]],
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises((UsageError, SystemExit)) as caught:
        lint(words)
    assert getattr(caught.value, "code", None) == 2


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PRIVILEGED.encode())))
    assert lint(["-"]) == 1
    assert "-:4: warning" in capsys.readouterr().out


def test_notes_alone_are_clean(tmp_path: Path) -> None:
    text = "services:\n  web: {image: web, platform: linux/arm64, security_opt: [seccomp=gone.json]}\n"
    assert lint([write(tmp_path / "compose.yaml", text)]) == 0


def test_rules_and_services_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PRIVILEGED + "  db:\n    image: db\n    pids_limit: 5\n"
    path = write(tmp_path / "compose.yaml", text)
    assert lint([path, "--allow", "privileged", "--allow", "thread-limit"]) == 0
    capsys.readouterr()
    assert lint([path, "--only", "db", "--json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert [one["rule"] for one in file["findings"]] == ["thread-limit"]
    assert [one["name"] for one in file["containers"]] == ["service db"]
    assert lint([path, "--only", "db", "--fix"]) == 0
    assert Path(path).read_text() == text.replace("pids_limit: 5", "pids_limit: 69")


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.yaml", "services:\n  web:\n    image: [web\n  db: x\n", 4, "cannot be read"),
        ("a.yaml", "services:\n\tweb: x\n", 2, "cannot be read"),
        ("a.yaml", "services: *nothing\n", 1, "stands for nothing"),
        ("a.yaml", "services: &a\n  web: *a\n", 2, "stands for nothing"),
        ("a.yaml", "services: " + "[" * 200 + "]" * 200 + "\n", 1, "deep"),
        ("a.yaml", "services:\n" + "#" * (1 << 20), 1, "longer"),
        ("a.yaml", b"services:\n  web: \xff\xfe\n", 2, "UTF-8"),
        ("a.yaml", b"services: \x00\n", 1, "cannot be read"),
        ("a.yaml", "on: push\njobs: {}\n", 1, "nothing in it"),
        ("a.json", '{"syscalls": []}', 1, "nothing in it"),
        ("a.json", '{"defaultAction": "SCMP_ACT_ALLOW",\n "syscalls": [1]}', 1, "no seccomp profile"),
        ("a.json", '{"defaultAction": "SCMP_ACT_ALLOW",\n\n // x\n "syscalls": []}', 3, "no JSON"),
        ("a.json", "[1, 2", 1, "cannot be read"),
        ("a.json", "7", 1, "no JSON"),
        ("run.sh", "#!/bin/sh\nexec web\n", 1, "nothing in it"),
        ("a.yaml", "", 1, "nothing in it"),
    ],
)
def test_not_read(
    name: str, text: str | bytes, line: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence, and the line where there is one."""
    at, said = unread(capsys, write(tmp_path / name, text))
    assert at == line, said
    assert words in said
    assert lint([str(tmp_path / name)]) == 2
    assert f"{name}:{line}: not read: " in capsys.readouterr().out


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    assert unread(capsys, str(tmp_path / "fifo.yaml")) == (0, "it is no file")
    assert unread(capsys, str(tmp_path)) == (0, "it is no file")
    assert "No such file" in unread(capsys, str(tmp_path / "gone.yaml"))[1]


def test_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "deployment.yaml", "apiVersion: v1\nkind: Pod\n{{- if .Values.x }}\nspec: {}\n{{- end }}\n")
    assert lint([path]) == 2
    assert "helm template" in capsys.readouterr().out


def test_a_bomb_of_aliases_stays_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten to the thirtieth services, were it taken apart."""
    lines = ["a0: &a0 {image: web, privileged: true}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}" for n in range(1, 31)]
    lines += ["services:", "  web: *a0", "  bomb: *a30", "  merged: {<<: [*a30, *a0], image: web}"]
    path = write(tmp_path / "compose.yaml", "\n".join(lines) + "\n")
    assert lint([path, "--json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert [(one["rule"], one["line"]) for one in file["findings"]] == [("privileged", 1)]
    with pytest.raises(UsageError, match="aliases stand for more"):
        lint([path, "--fix", "--override"])


def test_the_others_are_linted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn, good = write(tmp_path / "torn.yaml", "a: ["), write(tmp_path / "compose.yaml", PRIVILEGED)
    assert lint([torn, good]) == 2
    assert "compose.yaml:4: warning" in capsys.readouterr().out


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(SafedlvError) as caught:
        lint([write(tmp_path / "compose.yaml", PRIVILEGED)])
    assert caught.value.sentence == "lint needs PyYAML, which is not installed"


def test_names_are_not_obeyed_by_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'services:\n  "\\e[31mweb": {image: web, privileged: true, security_opt: ["seccomp=\\e[1m.json"]}\n'
    assert lint([write(tmp_path / "compose.yaml", text)]) == 1
    assert "\x1b" not in capsys.readouterr().out


# ---------------------------------------------------------------- what is written


def test_line_ends_and_the_mark_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "compose.yaml", b"\xef\xbb\xbf" + PRIVILEGED.replace("\n", "\r\n").encode())
    lint([path, "--fix"])
    expected = "\ufeffservices:\n  web:\n    image: web\n    cap_add:\n      - SYS_PTRACE\n".replace("\n", "\r\n")
    assert Path(path).read_bytes() == expected.encode()


def test_a_profile_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is named stays as it is; the new one takes no other file's place."""
    write(tmp_path / "strict.json", NO_PTRACE)
    path = write(tmp_path / "compose.yaml", REFUSING)
    write(tmp_path / "strict-dlv.json", "of somebody else")
    with pytest.raises(SafedlvError, match="there already"):
        lint([path, "--fix"])
    assert Path(path).read_text() == REFUSING
    (tmp_path / "strict-dlv.json").unlink()
    lint([path, "--fix"])
    assert Path(path).read_text() == REFUSING.replace("strict.json", "strict-dlv.json")
    assert (tmp_path / "strict.json").read_text() == NO_PTRACE
    capsys.readouterr()
    assert lint([path, str(tmp_path / "strict-dlv.json")]) == 0


def test_a_profile_of_where_the_script_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker run's paths begin in the working directory; the script's own is looked at where that has no such file."""
    monkeypatch.chdir(tmp_path)
    for directory in ("", "scripts"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        write(tmp_path / directory / "strict.json", NO_PTRACE)
        path = write(tmp_path / "scripts" / "run.sh", "docker run --security-opt seccomp=./strict.json web\n")
        assert lint([path]) == 1
        assert lint([path, "--fix"]) == 0
        assert (tmp_path / directory / "strict-dlv.json").exists()
        assert Path(path).read_text() == "docker run --security-opt=seccomp=./strict-dlv.json web\n"
        (tmp_path / directory / "strict.json").unlink()
        (tmp_path / directory / "strict-dlv.json").unlink()


def test_a_profile_of_the_workspace(tmp_path: Path) -> None:
    (tmp_path / ".devcontainer").mkdir()
    write(tmp_path / "strict.json", NO_PTRACE)
    text = '{"image": "web", "runArgs": ["--security-opt", "seccomp=${localWorkspaceFolder}/strict.json", "--init"]}'
    path = write(tmp_path / ".devcontainer" / "devcontainer.json", text)
    assert lint([path]) == 1
    lint([path, "--fix"])
    assert lint([path]) == 0
    assert json.loads(Path(path).read_text())["runArgs"][0] == "--init"
    assert (tmp_path / "strict-dlv.json").exists()


def test_privileged_above_a_profile(tmp_path: Path) -> None:
    """Without privileged the profile holds again, and is mended too."""
    write(tmp_path / "strict.json", NO_PTRACE)
    path = write(tmp_path / "compose.yaml", REFUSING + "    privileged: true\n")
    lint([path, "--fix"])
    assert lint([path]) == 0
    assert "strict-dlv.json" in Path(path).read_text()


def test_many_on_one_line(tmp_path: Path) -> None:
    services = ", ".join(f"s{number}: {{image: web, privileged: true}}" for number in range(12))
    path = write(tmp_path / "compose.yaml", f"services: {{{services}}}\n")
    assert lint([path, "--fix"]) == 0
    assert lint([path]) == 0
    path = write(tmp_path / "run.sh", "; ".join(["docker run --privileged web"] * 12) + "\n")
    assert lint([path, "--fix"]) == 0
    assert Path(path).read_text() == "; ".join(["docker run --cap-add=SYS_PTRACE web"] * 12) + "\n"


def test_override_of_other_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "run.sh", "docker run --privileged web\n")
    with pytest.raises(UsageError, match="Compose's and Kubernetes'"):
        lint([path, "--fix", "--override"])


def test_override_says_how_it_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "compose.yaml", PRIVILEGED)
    lint([path, "--fix", "--override"])
    assert "docker compose -f compose.yaml -f compose.debug.yaml up -d" in capsys.readouterr().err
    made = (tmp_path / "compose.debug.yaml").read_text()
    assert made.splitlines()[1:] == [
        *("services:", "  web:", "    privileged: false"),
        *("    cap_add:", "      - SYS_PTRACE"),
    ]
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec:\n  containers:\n"
    path = write(tmp_path / "pod.yaml", pod + "    - {name: web, securityContext: {privileged: true}}\n")
    lint([path, "--fix", "--override"])
    assert "kubectl patch pod web --namespace shop --patch-file debug-pod-web.yaml" in capsys.readouterr().err


def test_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "compose.yaml", PRIVILEGED)

    def refuse(self: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(SafedlvError, match=r"cannot write .*Permission denied"):
        lint([path, "--fix"])
