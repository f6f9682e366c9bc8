"""What a copy must have for a debugger, by a probe of the original; and whether the copy that was made has it."""

from __future__ import annotations

import json
import os
from typing import Final

from attrs import evolve, frozen

from safedlv.errors import SafedlvError, printable
from safedlv.inquiry import diagnose
from safedlv.model import Diagnosis, Ids
from safedlv.runtimes.docker import Engine
from safedlv.seccomp.profile import allowing_dlv
from safedlv.sibling.clone import DOES_NOTHING_TO_A_CONTAINER, LIVING, Document, Wish
from safedlv.sibling.clone_exec import needs_of
from safedlv.sibling.clone_program import wait_for_container
from safedlv.values import Value

HELD_AT_MOST_US: Final = 100_000.0
"""For how long the experiments may hold the target: on a busy machine doctor's own limit ends them too early."""
STOP_WITHIN: Final = 20.0
"""Seconds for the copy to stop for the probe: nobody waits for it, and this machine may be busy."""
TRIES: Final = 3


@frozen(eq=False, repr=False)
class Needed(Value):
    """The changes by their ids, none where no copy is needed; why, in words; and who would then debug."""

    ids: tuple[str, ...]
    words: str
    who: str = "container"


def needed(container: Document, said: str) -> Needed:
    """What a debugger that ``docker exec`` starts would need. ``said``: the ids that the user has named, "" for none.

    Raises SafedlvError when that cannot be found out, or no copy would help.
    """
    name = container["Name"].lstrip("/")
    if said:
        return Needed(tuple(said.split(",")), "as --change says")
    if os.geteuid() != 0:
        raise SafedlvError(
            "what is needed is found out by a probe from within the container, which takes root",
            "run it as root, or name the changes: --change cap:sys_ptrace,seccomp",
        )
    diagnosis = diagnose(f"docker:{name}", who="container", hold_limit_us=HELD_AT_MOST_US)
    if diagnosis.verdict in ("ok", "degraded"):
        return Needed(
            (), f"no copy is needed: a debugger can attach in {printable(name)}: safedlv attach docker:{name}"
        )
    causes = ", ".join(cause.id for cause in diagnosis.causes) or "no cause was found"
    if diagnosis.fix is None:
        raise SafedlvError(f"no copy would help: {causes}", f"safedlv doctor docker:{name} says more")
    ids = diagnosis.fix.ids
    if set(ids) <= DOES_NOTHING_TO_A_CONTAINER | LIVING:
        told = dict(diagnosis.fix.commands).get("docker", f"see safedlv doctor docker:{name}")
        return Needed((), f"no copy is needed ({causes}). It takes:\n{told}")
    return Needed(ids, causes, _debugger(ids, diagnosis))


def needed_to_start(container: Document, said: str) -> tuple[str, ...]:
    """The changes without which a dlv in the container could not start its program; ``said`` as above.

    Whoever may not find out gets none: whether that is enough shows when dlv starts.
    """
    if said:
        return tuple(said.split(","))
    if os.geteuid() != 0:
        return ()
    diagnosis = diagnose(f"docker:{container['Name'].lstrip('/')}", who="container", hold_limit_us=HELD_AT_MOST_US)
    scope = diagnosis.facts.modules.yama_scope if diagnosis.facts else None
    return needs_of(tuple(cause.id for cause in diagnosis.causes), scope)


def _debugger(ids: tuple[str, ...], diagnosis: Diagnosis) -> str:
    """Who would attach in the copy, for ``--tracer``."""
    if "root" in ids:
        return "container:0:0"
    status = diagnosis.facts.status if diagnosis.facts else None
    if "user" in ids and status and isinstance(status.uid, Ids) and isinstance(status.gid, Ids):
        return f"container:{status.uid.real}:{status.gid.real}"
    return "container"


def with_profile(engine: Engine, container: Document, wish: Wish, *, starts: bool = False) -> Wish:
    """The wish, with the seccomp profile where one is to be changed: the container's own, or the engine's, made to
    allow dlv. ``starts``: a dlv that starts its target.
    """
    if "seccomp" not in wish.ids:
        return wish
    from safedlv.seccomp_source import base

    own = any(str(option).startswith("seccomp") for option in container["HostConfig"].get("SecurityOpt") or [])
    options = engine.ask("tell about itself", engine.api.info).get("SecurityOptions") or []
    chosen = [str(option).partition("profile=")[2] for option in options if "name=seccomp" in str(option)]
    of_the_engine = chosen[0] if chosen and chosen[0].startswith("/") and not own else ""
    try:
        profile = allowing_dlv(base(of_the_engine or f"docker:{container['Id']}"), starts=starts)
    except ValueError as error:
        raise SafedlvError(f"the container's seccomp profile cannot be read: {printable(str(error))}") from error
    return evolve(wish, profile=json.dumps(profile))


# ---------------------------------------------------------------- whether it was enough


def verified(copy: str, who: str) -> str:
    """The probe from the place of ``who`` in the copy, in words. Raises SafedlvError when it is refused there.

    What could not be found out, on a machine that is too busy, is no refusal.
    """
    if os.geteuid() != 0:
        return f"the copy {copy} runs; whether a debugger can attach was not tried: that takes root"
    wait_for_container(copy)  # a probe of what the engine's runtime is until then says nothing
    for _ in range(TRIES):
        diagnosis = diagnose(f"docker:{copy}", STOP_WITHIN, who, HELD_AT_MOST_US)
        missing = {cause.id for cause in diagnosis.causes} == {"delve-missing"}  # here, which is no fault of the copy
        if missing or diagnosis.verdict in ("ok", "degraded"):
            poor = [cause.summary for cause in diagnosis.causes]
            return "; ".join([f"the copy {copy} runs, and the probe passes in it", *poor])
        if is_refused(diagnosis):
            causes = "; ".join(cause.summary for cause in diagnosis.causes) or _refusal(diagnosis)
            raise SafedlvError(f"the copy cannot be debugged either: {causes}", "everything is as it was before")
    return f"the copy {copy} runs; whether a debugger can attach could not be found out: safedlv doctor docker:{copy}"


def is_refused(diagnosis: Diagnosis) -> bool:
    """Whether a diagnosis says that it does not work, and not only that it could not be found out. Pure."""
    if diagnosis.verdict != "blocked":
        return False
    failed = diagnosis.attempt and (diagnosis.attempt.failed or diagnosis.attempt.failed_need)
    return bool(diagnosis.causes) or bool(failed and failed.errno not in (None, "TIMEOUT"))


def _refusal(diagnosis: Diagnosis) -> str:
    failed = diagnosis.attempt and (diagnosis.attempt.failed or diagnosis.attempt.failed_need)
    return f"{failed.step} fails with {failed.errno}" if failed else "the probe did not pass"
