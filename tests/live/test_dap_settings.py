"""What an attach request may ask of safedlv, and flags of ``dlv dap`` that plain dlv minds only on launch."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.clients import Dap
from tests.live.adapters import Adapter, adapters, attach, leave
from tests.support import Server, assert_unharmed, old_dlv, require, status, wait_until

Start = Callable[..., Adapter]


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    """After the server, so that it ends before: the server's end takes everything of ours along."""
    with adapters() as starter:
        yield starter


# ---------------------------------------------------------------- the target's Go


def test_a_dlv_for_other_programs(start: Start, server: Server) -> None:
    """As dlv says of what it launches; it attaches to anything, and fails later."""
    require(old_dlv(), "needs dlv 1.20 in $SAFEDLV_TEST_DLV_OLD")
    adapter = start(env={**os.environ, "SAFEDLV_DLV": str(old_dlv())})
    client = adapter.client()
    text = client.refused("attach", mode="local", processId=server.pid)
    assert re.match(r"dlv 1\.20\.\d supports Go 1\.\d+ to 1\.20, and the target was built by go1\.2", text), text
    assert "--check-go-version=false" in text
    assert status(server.pid, "TracerPid") == "0"
    leave(client)
    adapter.end()
    adapter = start("--check-go-version=false", env={**os.environ, "SAFEDLV_DLV": str(old_dlv())})
    client = adapter.client()
    attach(client, server.pid)
    leave(client)
    adapter.end()
    assert_unharmed(server.pid)


# ---------------------------------------------------------------- whose place the question is asked from


def test_whose_place(newest_dlv: str, start: Start, server: Server) -> None:
    """A refusal that everybody meets, and what a user without capabilities meets besides."""
    require(os.geteuid() == 0, "reads another's context")
    holder = start(plain=newest_dlv).client()
    attach(holder, server.pid)
    client = start().client()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(nobody) as other:
        wait_until(lambda: status(other.pid, "Name") == "sleep", "it is somebody else")
        for who, more in (("", False), ("self", False), (f"pid:{other.pid}", True)):
            text = client.refused("attach", processId=server.pid, safedlv={"tracer": who})
            report = client.event("output")["body"]["output"]
            assert "already-traced" in text
            assert ("\ncredentials (" in report) == more, report
        other.kill()
    for who, words in (("pid:999999999", "cannot be read"), ("everybody", "names nobody"), ("container:x", "no user")):
        assert words in client.refused("attach", processId=server.pid, safedlv={"tracer": who})
    leave(client)
    leave(holder)
    assert_unharmed(server.pid)


def test_the_place_does_not_matter_where_nothing_is_refused(newest_dlv: str, start: Start, server: Server) -> None:
    client = start().client()
    attach(client, server.pid, safedlv={"tracer": "container:1000"})
    leave(client)
    assert_unharmed(server.pid)


# ---------------------------------------------------------------- when the client comes


def test_a_late_client(newest_dlv: str, start: Start, server: Server) -> None:
    """Long after the line, and for the second time: the first time it had nothing to say."""
    adapter = start()
    Dap(adapter.address).close()
    time.sleep(3)
    client = adapter.client()
    time.sleep(1)
    attach(client, server.pid)
    leave(client)
    assert adapter.end()[0] == 0
    assert_unharmed(server.pid)


def test_a_client_that_comes_again(newest_dlv: str, start: Start, server: Server) -> None:
    """One client is one session, as with dlv: when it goes the session ends, and nobody listens any more."""
    adapter = start()
    client = adapter.client()
    attach(client, server.pid)
    client.close()
    with pytest.raises(OSError):  # refused, or taken by nobody before the end
        Dap(adapter.address).initialize()
    assert adapter.end()[0] == 0
    assert_unharmed(server.pid)
