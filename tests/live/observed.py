"""``safedlv observe --json``: asked, and its answer held against strace's of a like run."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.live import straced
from tests.scenes import Document
from tests.support import answer_of, require

EXIT_CODES = {"works": 0, "fails": 10, "spoilt": 11, "hidden": 10}


def observe(*words: str) -> Document:
    """The answer of ``observe --json``; its exit code follows from the verdict."""
    code, answer = answer_of("observe", "--json", *words)
    assert answer["schema"] == "safedlv.observation/1"
    assert code == EXIT_CODES[answer["verdict"]]
    return answer


def agreed(dlv: str, log: Path, text: str, who: str, *flags: str) -> Document:
    """What observe says of a target (``text``) with ``--tracer WHO``, where strace says the same of a run like it.

    The same calls failed with the same errnos, and dlv said and ended the same.
    """
    require(shutil.which("strace"), "needs strace")
    answer = observe(text, "--tracer", who, *flags)
    by_strace = straced.play(dlv, who, text, log, real="--real" in flags)
    assert failed(answer) == by_strace.failed
    assert outcome(answer) == (by_strace.code, by_strace.stderr)
    return answer


def failed(answer: Document) -> straced.Failed:
    """The failed calls that two like runs have in common."""
    calls = ((call["call"], call["request"], call["errno"], call["text"]) for call in answer["calls"])
    return straced.compared(
        (f"{name}({request})" if request else name, errno, text) for name, request, errno, text in calls
    )


def outcome(answer: Document) -> tuple[int, list[str]]:
    """Exit code and stderr of dlv."""
    return answer["dlv"]["exit_code"], straced.comparable_words(answer["dlv"]["stderr"])


def first(answer: Document) -> tuple[str | None, str | None, str | None]:
    """The call that matters first, its request, and its errno."""
    at = answer["first"]
    call = answer["calls"][at] if at is not None else {}
    return call.get("call"), call.get("request"), call.get("errno")
