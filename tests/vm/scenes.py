"""What is played in the virtual machine: targets, tracers, and what is true of each pair at each ptrace_scope.

The truth is that of the contract: a cause is a layer that would still block if every other were out of the way. It is
the same for everybody; what somebody inside cannot know, who can take no layer away, is said with the scene.
"""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import asdict, evolve, field, frozen

from tests.scenes import ANYTHING, Truth
from tests.vm.places import (
    APPARMOR,
    HIDEPID,
    LANDLOCKED,
    PRIVILEGED,
    ROOT,
    TARGETS,
    USERNS,
    USERS_PTRACE,
    Tracer,
    apparmor,
    as_user,
    exec_as,
    machine,
    sidecar,
)

# ---------------------------------------------------------------- what is true


@frozen
class Known:
    """What an answer must say at one scope, asked inside and asked from outside; None: not asked there."""

    inside: Truth | None
    outside: Truth | None

    @property
    def causes(self) -> frozenset[str]:
        """All that is true, whoever can know it."""
        truths = [truth for truth in (self.inside, self.outside) if truth]
        return frozenset().union(*(truth.causes for truth in truths))


def refused(
    causes: str,
    *fix: str,
    errno: str = "EPERM",
    step: str | None = "attach",
    inside: str = "",
    outside: str = "",
    inferred: str = "",
) -> Known:
    """Blocked by these. ``inside`` and ``outside``: which of them somebody there cannot know, and need not name."""
    truth = Truth(causes, step, errno if step else None, fix, inferred=inferred)
    return Known(_but(truth, inside), _but(truth, outside))


def _but(truth: Truth, hidden: str) -> Truth:
    names = frozenset(hidden.split())
    return evolve(truth, causes=truth.causes - names, may=truth.may | names)


def inside(known: Known) -> Known:
    """Asked inside only: from outside nobody can tell."""
    return evolve(known, outside=None)


def outside(known: Known) -> Known:
    """Asked from outside only."""
    return evolve(known, inside=None)


POWER = "cap:sys_ptrace"
OK: Final = Known(Truth(), Truth())
YAMA: Final = refused("yama", POWER)
FOR_GOOD: Final = refused("yama", "reboot", inferred="yama")
AS_USER: Final = refused("yama", "root", POWER)
"""In a container nobody but root has what capabilities it is given."""
USUAL: Final = (OK, YAMA, YAMA, FOR_GOOD)
"""For a tracer that nothing but Yama keeps out, and that has not CAP_SYS_PTRACE."""
POWERFUL: Final = (OK, OK, OK, FOR_GOOD)


@frozen
class Stage:
    """A target, a tracer, and what is true of them at the scopes 0, 1, 2, 3 (None: not played)."""

    name: str
    target: str
    tracer: Tracer
    known: tuple[Known | None, ...]
    meanwhile: str = ""
    """What is done to the target while the question is asked."""
    compared: bool = True
    """False: another tool could not be ended there, or would bring the machine into disorder."""
    plainly: bool = False
    """Asked by a real ``docker exec CONTAINER safedlv doctor``, too."""


NO_LABEL = "label:apparmor"
TRACE_ONLY = "SYS_PTRACE"
SIDECARS = ("SYS_PTRACE", "DAC_READ_SEARCH", "KILL")

DOCKERS: Final = (  # the table of kernel-facts.md
    Stage("default, root", "default", ROOT, USUAL, plainly=True),
    Stage("default, exec --privileged", "default", PRIVILEGED, POWERFUL),
    Stage("SYS_PTRACE, root", "capable", ROOT, POWERFUL),
    Stage("seccomp unconfined", "seccomp-unconfined", ROOT, USUAL),
    Stage("AppArmor unconfined", "apparmor-unconfined", ROOT, USUAL),
    Stage("user 1000, exec as 1000", "user", exec_as(1000), (OK, AS_USER, AS_USER, FOR_GOOD)),
    Stage(
        "user 1000 with SYS_PTRACE, exec as 1000",
        "user-capable",
        exec_as(1000),
        (OK, refused("yama", "root"), refused("yama", "root"), FOR_GOOD),
    ),
    Stage("user 1000 with SYS_PTRACE, exec as root", "user-capable", exec_as(0), POWERFUL),
    Stage(
        "user 1000, exec as root",
        "user",
        exec_as(0),
        (
            refused("credentials", "user"),
            refused("credentials yama", POWER, inside="yama"),
            refused("credentials yama", POWER),
            refused("credentials yama", "reboot", inferred="credentials yama"),
        ),
        plainly=True,
    ),
    Stage("no capability, no_new_privs", "dropped", ROOT, USUAL),
    Stage(
        "AppArmor against ptrace, SYS_PTRACE",
        "no-ptrace-profile-capable",
        ROOT,
        (
            refused("apparmor", NO_LABEL, errno="EACCES"),
            refused("apparmor", NO_LABEL, errno="EACCES"),
            refused("apparmor", NO_LABEL, errno="EACCES"),
            refused("apparmor yama", "reboot", inside="apparmor", outside="apparmor", inferred="yama"),
        ),
    ),
    Stage("sidecar with SYS_PTRACE, both root", "default", sidecar(TRACE_ONLY), POWERFUL),
    Stage(
        "its own child, default",
        "default",
        Tracer("exec", child=True),
        # Scope 1: a dlv that becomes that very process may attach; one that safedlv starts is the target's sibling, as
        # the probe is. From outside nobody can tell whether the question means that process, or one beside it.
        (OK, inside(YAMA), YAMA, FOR_GOOD),
    ),
    Stage("root of the machine", "default", machine(), POWERFUL),
)

YAMAS: Final = (
    Stage(
        "whom the target named",
        "on-machine-named",
        machine(*as_user(1000)),
        # From outside nobody can tell: the kernel shows nowhere whom a process named.
        (None, inside(OK), YAMA, FOR_GOOD),
    ),
    Stage("the target named anybody", "on-machine-any", machine(*as_user(1000)), (None, OK, YAMA, None)),
    Stage("the target named another", "on-machine-itself", machine(*as_user(1000)), (None, YAMA, YAMA, None)),
    Stage("same user", "on-machine", machine(*as_user(1000)), USUAL),
    Stage("same user with SYS_PTRACE", "on-machine", machine(*as_user(1000), *USERS_PTRACE), POWERFUL),
    Stage(
        "another user",
        "on-machine-other",
        machine(*as_user(1000)),
        (
            refused("credentials", "user"),
            refused("credentials yama", "user", POWER, inside="yama"),
            refused("credentials yama", "user", POWER),
            refused("credentials yama", "reboot", inferred="credentials yama"),
        ),
    ),
    Stage(
        "another user, hidepid",
        "on-machine-other",
        machine(*HIDEPID, *as_user(1000)),
        # hidepid asks the same question as ptrace: with the ids out of the way it hides nothing.
        (
            Known(
                Truth("hidepid", may="credentials", probed=False),
                Truth("credentials", "attach", "EPERM", ("user",), may="hidepid"),
            ),
            None,
            None,
            None,
        ),
    ),
)

SECCOMPS: Final = (
    Stage(
        "a filter against ATTACH",
        "no-attach",
        ROOT,
        (
            refused("seccomp", "seccomp"),
            refused("seccomp yama", "seccomp", POWER),
            refused("seccomp yama", "seccomp", POWER),
            refused("seccomp yama", "reboot", outside="seccomp", inferred="yama"),
        ),
    ),
    Stage(
        "a filter against SETOPTIONS",
        "no-setoptions",
        ROOT,
        (
            refused("seccomp", "seccomp", step="setoptions"),
            refused("seccomp yama", "seccomp", POWER),
            refused("seccomp yama", "seccomp", POWER),
            None,
        ),
    ),
    Stage(
        "a filter against SETOPTIONS, exec --privileged",
        "no-setoptions",
        PRIVILEGED,
        (None, None, refused("seccomp", "seccomp", step="setoptions"), None),
    ),
    Stage(
        "a filter and another user",
        "no-ptrace-user",
        exec_as(0),
        (
            refused("credentials seccomp", "user", "seccomp", errno="ENOSYS"),
            refused("credentials seccomp yama", "seccomp", POWER, errno="ENOSYS", inside="yama"),
            refused("credentials seccomp yama", "seccomp", POWER, errno="ENOSYS"),
            Known(  # from outside the filter cannot be read at this scope, so it is not what answers first
                refused("credentials seccomp yama", errno="ENOSYS").inside,
                refused("credentials yama", "reboot", outside="seccomp", inferred="credentials yama").outside,
            ),
        ),
    ),
    Stage(
        "a filter, another user, an AppArmor profile",
        "everything",
        exec_as(0),
        (
            refused("credentials seccomp apparmor", "user", "seccomp", NO_LABEL, inside="apparmor"),
            None,
            refused("credentials seccomp apparmor yama", "seccomp", NO_LABEL, POWER, inside="apparmor"),
            None,
        ),
    ),
)

APPARMORS: Final = (
    Stage(
        "AppArmor against ptrace",
        "no-ptrace-profile",
        ROOT,
        (
            refused("apparmor", NO_LABEL, errno="EACCES"),
            refused("apparmor yama", NO_LABEL, POWER, inside="apparmor yama"),
            refused("apparmor yama", NO_LABEL, POWER, inside="apparmor"),
            None,
        ),
    ),
    Stage(
        "AppArmor against tracing, not reading",
        "no-trace-profile",
        ROOT,
        (
            refused("apparmor", NO_LABEL, errno="EACCES"),
            refused("apparmor yama", NO_LABEL, POWER, inside="apparmor yama"),
            None,
            None,
        ),
    ),
    Stage(
        "AppArmor against signals",
        "no-signal-profile",
        ROOT,
        (refused("signal-access", NO_LABEL, step=None), refused("signal-access yama", NO_LABEL, POWER), None, None),
        compared=False,
    ),
    Stage("a complaining profile, which does not matter", "complaining-profile", ROOT, (OK, YAMA, None, None)),
    Stage(
        "sidecar under docker-default, unconfined target",
        "apparmor-unconfined",
        sidecar(*SIDECARS),
        (
            refused("apparmor", NO_LABEL, errno="EACCES"),
            refused("apparmor", NO_LABEL, errno="EACCES"),
            None,
            refused("apparmor yama", "reboot", inside="apparmor", outside="apparmor", inferred="yama"),
        ),
    ),
    Stage(
        "sidecar under docker-default, no capability, unconfined target",
        "apparmor-unconfined",
        sidecar(),
        (
            refused("capability-excess apparmor", NO_LABEL, POWER, inside="apparmor"),
            refused("capability-excess apparmor yama", NO_LABEL, POWER, inside="apparmor yama"),
            refused("capability-excess apparmor yama", NO_LABEL, POWER, inside="apparmor"),
            None,
        ),
    ),
    Stage(
        "sidecar under docker-default, target under another profile",
        "other-profile",
        sidecar(*SIDECARS),
        (refused("apparmor", NO_LABEL, errno="EACCES"), refused("apparmor", NO_LABEL, errno="EACCES"), None, None),
    ),
    Stage(
        "sidecar under the target's profile",
        "other-profile",
        sidecar(*SIDECARS, security=(apparmor("lab-other"),)),
        (OK, OK, None, None),
    ),
    Stage(
        "unconfined sidecar",
        "no-ptrace-profile",
        sidecar(*SIDECARS, security=(apparmor("unconfined"),)),
        (OK, OK, OK, None),
    ),
    Stage(
        "sidecar that may trace and not signal",
        "open-profile",
        sidecar(*SIDECARS, security=(apparmor("lab-no-signal"),)),
        (refused("signal-access", NO_LABEL, step=None), refused("signal-access", NO_LABEL, step=None), None, None),
        compared=False,
    ),
)

CAPABILITIES: Final = (
    Stage("sidecar without capabilities, target without", "dropped", sidecar(), (OK, YAMA, None, None)),
    Stage(
        "sidecar with SYS_PTRACE, target with every capability",
        "every-capability",
        sidecar(TRACE_ONLY),
        (OK, OK, OK, None),
    ),
    Stage(
        "sidecar without capabilities",
        "default",
        sidecar(),
        (
            refused("capability-excess", POWER),
            refused("capability-excess yama", POWER, inside="yama"),
            refused("capability-excess yama", POWER),
            refused("capability-excess yama", "reboot", inferred="capability-excess yama"),
        ),
    ),
    Stage(
        "sidecar with SYS_PTRACE, another user",
        "user",
        sidecar(TRACE_ONLY),
        (
            refused("proc-access signal-access", "user", step=None),
            refused("proc-access signal-access", "cap:dac_read_search", "cap:kill", step=None),
            refused("proc-access signal-access", "cap:dac_read_search", "cap:kill", step=None),
            refused("proc-access signal-access yama", "reboot", inferred="proc-access signal-access yama"),
        ),
    ),
    Stage("sidecar with all three, another user", "user", sidecar(*SIDECARS), POWERFUL),
    Stage(
        "a program that only root may read",
        "unreadable",
        exec_as(1000),
        (
            refused("not-dumpable", "root", POWER),
            # Whom the target named (PR_SET_PTRACER) shows only where the memory is dumpable.
            refused("not-dumpable yama", "root", POWER, inside="yama", outside="yama"),
            refused("not-dumpable yama", "root", POWER),
            None,
        ),
    ),
    Stage(
        "a program that only root may read, another user",
        "unreadable",
        exec_as(0),
        (
            refused("credentials not-dumpable", POWER),
            None,
            refused("credentials not-dumpable yama", POWER),
            refused("credentials not-dumpable yama", "reboot", inferred="credentials not-dumpable yama"),
        ),
    ),
)

NAMESPACES: Final = (
    Stage("the user namespace's owner, from outside it", "on-machine-userns", machine(*as_user(1000)), POWERFUL),
    Stage(
        "from a user namespace",
        "on-machine",
        machine(*as_user(1000), *USERNS),
        (
            refused("user-namespace", "namespace:user"),
            refused("user-namespace yama", *ANYTHING, inside="yama"),
            refused("user-namespace yama", *ANYTHING),
            None,
        ),
    ),
    Stage(
        "from a container, of the machine",
        "on-machine",
        machine("docker", "exec", "-i", "default"),
        (outside(refused("credentials pid-namespace apparmor", *ANYTHING, errno="ESRCH")), None, None, None),
    ),
    Stage(
        "from a Landlock domain",
        "on-machine",
        machine(*as_user(1000), *LANDLOCKED),
        # From outside nobody can tell: the kernel shows no domain.
        (inside(refused("landlock")), inside(refused("landlock yama", inside="yama")), None, None),
    ),
)

MEANWHILES: Final = (
    Stage(
        "paused",
        "default",
        sidecar(TRACE_ONLY),
        (refused("frozen", "thaw", errno="TIMEOUT", inside="frozen"), None, None, None),
        "paused",
    ),
    Stage(
        "paused, no capability",
        "default",
        sidecar(),
        (
            None,
            refused(
                "frozen capability-excess yama",
                *ANYTHING,
                inside="frozen yama",
                outside="yama",  # whom the target named, only an attempt could tell
                inferred="capability-excess",
            ),
            None,
            None,
        ),
        "paused",
    ),
    Stage(
        "traced by strace",
        "capable",
        ROOT,
        (refused("already-traced", "end-tracer"), refused("already-traced", "end-tracer"), None, None),
        "strace",
    ),
    Stage(
        "traced by strace, no capability",
        "seccomp-unconfined",
        ROOT,
        (
            None,
            # Inside, TracerPid is 0: strace is in another PID namespace.
            refused("already-traced yama", *ANYTHING, inferred="yama", inside="already-traced", outside="yama"),
            refused("already-traced yama", *ANYTHING, inferred="yama", inside="already-traced"),
            None,
        ),
        "strace",
    ),
    Stage(
        "stopped in gdb",
        "on-machine",
        machine(*as_user(1000)),
        (refused("already-traced", "end-tracer"), None, None, None),
        "gdb",
    ),
    Stage(
        "room for few threads",
        "small",
        ROOT,
        (refused("thread-limit", "limit:pids", step=None), None, None, None),
        "few pids",
    ),
    Stage(
        "room for little memory",
        "small",
        PRIVILEGED,
        (outside(refused("memory-limit", "limit:memory", step=None)), None, None, None),
        "little memory",
        compared=False,
    ),
)

STAGES: Final = (*DOCKERS, *YAMAS, *SECCOMPS, *APPARMORS, *CAPABILITIES, *NAMESPACES, *MEANWHILES)


@frozen
class Scene:
    """One stage at one scope."""

    stage: Stage
    scope: int
    known: Known
    name: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.stage.name}, scope {self.scope}")


SCENES: Final = {
    scene.name: scene
    for stage in STAGES
    for scope, known in enumerate(stage.known)
    if known is not None
    for scene in [Scene(stage, scope, known)]
}


CONTROL = {f"control group, scope {scope}": scope for scope in (0, 1, 2)}
"""Lines about ``safedlv control``, and Yama's scope for each."""


UNNAMED = "from a container, of the machine"
"""The target has no PID there: no dlv is started."""
SEEN = [name for name, scene in SCENES.items() if scene.known.outside is not None and scene.stage.name != UNNAMED]
OBSERVED = [name for name in SEEN if SCENES[name].scope < 3]
"""Where ``safedlv observe`` is compared with strace, by the long run."""
UNOBSERVED = [name for name in SEEN if SCENES[name].scope == 3]
"""Where nobody may trace, safedlv and strace included."""


def for_the_guest(
    compared: frozenset[str],
    tools: dict[str, list[str]],
    sessions: dict[str, Any],
    observe: list[dict[str, Any]],
    long: bool,
) -> str:
    """What is to be played, as JSON. ``tools``: what starts each in the ``compared`` scenes, with ``{pid}`` in it.

    ``sessions``: what tests/vm/hard_cases.py adds; ``observe``: what tests/vm/observe_cases.py does.
    ``long``: with what is watched and observed, too.
    """

    def scenes(stage: Stage) -> list[dict[str, Any]]:
        return [
            {
                "name": scene.name,
                "scope": scene.scope,
                "inside": scene.known.inside is not None,
                "outside": scene.known.outside is not None,
                "plainly": stage.plainly,
                "observed": long and scene.name in SEEN,
                "tools": tools if scene.name in compared else {},
            }
            for scene in SCENES.values()
            if scene.stage is stage
        ]

    stages = [
        {
            "target": stage.target,
            "tracer": asdict(stage.tracer),
            "who": stage.tracer.who,
            "meanwhile": stage.meanwhile,
            "scenes": scenes(stage),
        }
        for stage in STAGES
    ]
    targets = {name: asdict(target) for name, target in TARGETS.items()}
    besides = {"control": CONTROL, "sessions": sessions, "observe": observe, "long": long}
    return json.dumps({"apparmor": APPARMOR, "targets": targets, "stages": stages, **besides})
