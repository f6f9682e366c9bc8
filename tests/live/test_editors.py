"""examples/vscode and examples/editors: what they say is what the editors' own schemas allow, and it works here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from safedlv.dap_settings import KEYS, WORDS
from tests.clients import Dap
from tests.live.leftovers import nothing_left_behind  # noqa: F401  pytest finds fixtures by their names here
from tests.live.vscode import EXAMPLES, VsCode, configurations, read_jsonc, resolved
from tests.support import ROOT, Server, assert_unharmed, wait_until

CAPTURED = json.loads((ROOT / "tests" / "unit" / "captured" / "vscode-go-attach.json").read_text())
OF_VSCODE = {"name", "type", "request"}
EDITORS = ROOT / "examples" / "editors"
TYPES: dict[str, Any] = {"string": str, "number": (int, float), "boolean": bool, "array": list, "object": dict}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON Schema as the extension's uses."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        return False
    if isinstance(value, list):
        return all(fits(one, schema.get("items", {})) for one in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return all(fits(one, known[key]) for key, one in value.items() if key in known)
    return True


# ------------------------------------------------------------ what they say


@pytest.mark.parametrize("name", configurations())
def test_a_configuration_is_what_the_extension_knows(name: str) -> None:
    found = configurations()[name]
    known = CAPTURED["attach"]["properties"]
    assert (found["type"], found["request"]) == ("go", "attach")
    assert set(found) <= OF_VSCODE | set(known) | {"safedlv"}
    for key in set(found) & set(known):
        assert fits(found[key], known[key]), key


@pytest.mark.parametrize("name", configurations())
def test_our_own_keys_are_those_that_there_are(name: str) -> None:
    own = configurations()[name].get("safedlv", {})
    assert set(own) <= set(KEYS)
    assert all(own[key] in words for key, words in WORDS.items() if key in own)


def test_the_schema_is_not_met_by_anything() -> None:
    known = CAPTURED["attach"]["properties"]
    assert not fits("never", known["mode"])
    assert not fits([{"from": 1}], known["substitutePath"])
    assert not fits({}, known["processId"])


def test_every_way_has_a_configuration() -> None:
    said = [one.get("safedlv", {}) for one in configurations().values()]
    assert {one.get("via") for one in said} >= {None, "ask", "sidecar", "clone"}
    assert {one.get("target", "").partition(":")[0] for one in said} >= {"", "name", "docker", "${input"}
    assert {one["mode"] for one in configurations().values()} == {"local", "remote"}


def test_the_settings_name_a_dlv() -> None:
    for settings in (
        read_jsonc(EXAMPLES / "settings.json"),
        read_jsonc(EXAMPLES / "devcontainer.json")["customizations"]["vscode"]["settings"],
    ):
        tools = settings["go.alternateTools"]
        assert fits(tools, CAPTURED["alternateTools"])
        assert Path(tools["dlv"]).is_absolute()
        assert Path(tools["dlv"]).name in ("dlv", "dlv-launcher")


def test_inputs_are_defined_where_they_are_used() -> None:
    for name in ("launch.json", "tasks.json"):
        document = read_jsonc(EXAMPLES / name)
        used = set(re.findall(r"\$\{input:(\w+)\}", json.dumps(document)))
        assert used == {one["id"] for one in document["inputs"]}


@pytest.mark.parametrize("name", ["launch.json", "tasks.json"])
def test_the_input_lists_what_can_be_debugged(name: str, server: Server) -> None:
    """As the extension augustocdias.tasks-shell-input reads lines: value, label, description."""
    (given,) = read_jsonc(EXAMPLES / name)["inputs"]
    assert given["type"] == "command"
    command = given["args"]["command"].replace("safedlv", f"{sys.executable} -m safedlv", 1)
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    rows = [line.split(given["args"]["fieldSeparator"]) for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {3}
    assert str(server.pid) in {row[0] for row in rows}


@pytest.mark.parametrize("task", range(len(read_jsonc(EXAMPLES / "tasks.json")["tasks"])))
def test_tasks_start_commands_that_there_are(task: int, newest_dlv: str) -> None:
    found = read_jsonc(EXAMPLES / "tasks.json")["tasks"][task]
    assert found["command"] == "safedlv"
    done = subprocess.run(
        [sys.executable, "-m", "safedlv", found["args"][0], "--help"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_other_editors_start_what_there_is(newest_dlv: str) -> None:
    """Each names the command, and the arguments of an attach that safedlv knows."""
    helix = tomllib.loads((EDITORS / "helix-languages.toml").read_text())["language"][0]["debugger"]
    assert (helix["command"], helix["args"]) == ("safedlv", ["dap"])
    requests = [template["args"] for template in helix["templates"]]
    requests += read_jsonc(EDITORS / "zed-debug.json")
    for request in requests:
        assert request["mode"] == "local"
        assert request["processId"]
        assert set(request.get("safedlv", {})) <= set(KEYS)
    for name in ("nvim-dap.lua", "dape.el"):
        text = (EDITORS / name).read_text()
        assert '"safedlv"' in text
        assert '"dap"' in text
        assert set(re.findall(r'via *=? *"(\w+)"', text)) <= set(WORDS["via"])


# ------------------------------------------------------------ sessions


@pytest.fixture
def shim(tmp_path: Path, newest_dlv: str) -> Path:
    """The dlv that go.alternateTools names: one made for the Python of these tests."""
    made = subprocess.run(
        [sys.executable, "-m", "safedlv", "shim", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (tmp_path / "safedlv").symlink_to(ROOT / "safedlv")  # beside shims/, as in a checkout
    (tmp_path / "shims").mkdir()
    return Path(shutil.move(made.stdout.strip(), tmp_path / "shims" / "dlv"))


def look_and_leave(editor: VsCode, server: Server) -> None:
    bound = editor.client.request("setFunctionBreakpoints", breakpoints=[{"name": "main.greeting"}])["breakpoints"]
    assert bound[0]["verified"]
    editor.client.request("configurationDone")
    assert editor.stop() == 0
    assert_unharmed(server.pid)
    assert "hello" in server.get()


@pytest.mark.usefixtures("nothing_left_behind")
@pytest.mark.parametrize("name", ["a Go process of this machine", "in a devcontainer"])
def test_a_local_process(name: str, shim: Path, server: Server) -> None:
    with VsCode(shim) as editor:
        editor.attach(resolved(configurations()[name], {"command:pickGoProcess": str(server.pid)}))
        look_and_leave(editor, server)


@pytest.mark.usefixtures("nothing_left_behind")
def test_by_its_command_line(shim: Path, server: Server, server_binary: Path) -> None:
    found = json.loads(json.dumps(configurations()["by its command line"]).replace("/srv/api", str(server_binary)))
    with VsCode(shim) as editor:
        editor.attach(resolved(found, {}))
        look_and_leave(editor, server)


@pytest.mark.usefixtures("nothing_left_behind")
def test_from_the_list(shim: Path, server: Server) -> None:
    with VsCode(shim) as editor:
        editor.attach(resolved(configurations()["from the list of safedlv pick"], {"input:target": str(server.pid)}))
        look_and_leave(editor, server)


@pytest.mark.usefixtures("nothing_left_behind")
def test_another_machine(newest_dlv: str, server: Server) -> None:
    """The one that starts nothing: the extension connects to the port itself."""
    given = configurations()["another machine"]
    command = re.findall(r"There: (safedlv .*) TARGET", (EXAMPLES / "launch.json").read_text())[0]
    words = command.replace("2345", "0").split()[1:]
    with subprocess.Popen(
        [sys.executable, "-m", "safedlv", *words, str(server.pid)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        address = session.stdout.readline().rpartition(": ")[2].strip()
        client = Dap(address)
        client.initialize()
        client.request("attach", **resolved(given, {"workspaceFolder": str(ROOT)}))
        client.event("initialized")
        client.request("configurationDone")
        client.request("disconnect", terminateDebuggee=False)
        client.close()
        assert session.wait(20) == 0
    assert_unharmed(server.pid)
    wait_until(lambda: "hello" in server.get(), "it serves")


@pytest.mark.usefixtures("nothing_left_behind")
def test_without_safedlv_minus_one_means_nobody(newest_dlv: str, server: Server) -> None:
    """A configuration of ours with plain dlv in its place is refused, whatever runs here."""
    with VsCode(Path(newest_dlv)) as editor:
        editor.client.initialize()
        assert editor.client.refused("attach", **resolved(configurations()["by its command line"], {}))
        editor.stop()
    assert_unharmed(server.pid)
