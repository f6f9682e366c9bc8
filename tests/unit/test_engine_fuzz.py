"""Whatever an engine, a process or a filter hands over: an answer or a sentence, never a traceback."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from safedlv.errors import SafedlvError
from safedlv.facts.reading import parsed
from safedlv.facts.security_modules import parse_label
from safedlv.facts.sides import apparmor_profile
from safedlv.facts.surroundings import compose_service
from safedlv.probe.filters import asks_a_supervisor
from safedlv.runtimes import docker, engine

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "State": st.fixed_dictionaries({}, optional={"Pid": JSON, "Status": JSON, "Paused": JSON}) | JSON,
        "Config": st.fixed_dictionaries({}, optional={"Labels": JSON, "User": JSON}) | JSON,
        "HostConfig": JSON,
    },
)
ANSWER = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda status, body: b"HTTP/1.0 %d X\r\n\r\n%s" % (status, body),
        st.sampled_from([200, 204, 404, 409, 500]),
        st.one_of(st.binary(max_size=80), JSON.map(lambda value: json.dumps(value).encode())),
    ),
)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def is_answered(call: Callable[[], object]) -> None:
    with contextlib.suppress(SafedlvError):
        call()


@relaxed
@given(document=DOCUMENT | JSON)
@example(document={"State": {"Pid": True}})
@example(document={"State": {"Pid": 1 << 80}})
def test_inspect_documents(monkeypatch: pytest.MonkeyPatch, document: Any) -> None:
    monkeypatch.setattr(docker, "inspect_container", lambda *_: document)
    for words in ("web", "web/1"):
        is_answered(lambda words=words: docker.container_process(words))  # type: ignore[misc]
    assert isinstance(compose_service("web"), str | None)


@relaxed
@given(answer=ANSWER)
def test_answers_of_whatever_listens_there(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(engine, "_ask", lambda *_: answer)
    is_answered(lambda: docker.container_process("web"))


@given(st.text())
def test_names_of_containers(name: str) -> None:
    with contextlib.suppress(engine.EngineError, OSError, ValueError):
        engine.inspect_container("/nowhere", name, 0.1)


@given(st.binary(max_size=200))
def test_labels(data: bytes) -> None:
    label = parsed(data, parse_label, "attr/current")
    profile = apparmor_profile(label)
    assert profile is not None


@given(st.binary(max_size=200))
def test_filters(program: bytes) -> None:
    assert asks_a_supervisor(program) in (True, False)
