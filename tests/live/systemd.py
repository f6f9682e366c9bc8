"""systemd as PID 1 of namespaces of its own: what runs below it is on a machine with systemd, and ours is not changed.

Nothing of the machine can be written to from there: its root is a tmpfs, with /usr and what a test shows it bound
read-only, and systemd is not executed where anything else turns out to be writable. It must be so: the units that any
service pulls in empty /tmp, as at a boot. None of the machine's units is known to it. There is no bus: root speaks to
systemd by its private socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from safedlv.facts.cgroup import V2, read_mounts
from safedlv.facts.process import descendants, process_tree
from safedlv.linux import confine
from safedlv.model import Unknown
from tests.support import require, wait_until

PROGRAM: Final = Path("/lib/systemd/systemd")
V1: Final = ("memory", "pids", "freezer")
LAYOUTS: Final = {"v1": (*V1, "name=systemd"), "hybrid": (*V1, "name=systemd", V2), "v2": (V2,)}
"""The hierarchies of each layout: cgroup v1, v1 and v2 side by side, v2 alone."""
UNITS: Final = ("safedlv-test", "sysinit", "basic", "shutdown")
"""Targets that do nothing: the one that is started, and those that services and scopes depend on by default."""
OURS: Final = "safedlv"
"""The source of each file system that is made for it alone."""
BOOT: Final = f"""
tmpfs() {{ mkdir -p "$2"; mount -t tmpfs -o "mode=$1" {OURS} "$2"; }}
read_only() {{ mkdir -p "$1$2"; mount --bind "$2" "$1$2"; mount -o remount,bind,ro "$1$2"; }}
root=$1 places=$2 hierarchies=$3
tmpfs 755 "$root"
cd "$root"
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
mkdir -p etc/systemd/system run var old
tmpfs 1777 "$root/tmp"
for place in $places; do read_only "$root" "$place"; done
cp /etc/passwd /etc/group /etc/ld.so.cache etc/
for unit in {" ".join(UNITS)}; do printf '[Unit]\nDefaultDependencies=no\n' >etc/systemd/system/$unit.target; done

tmpfs 755 "$root/dev"
for node in null zero full random urandom tty; do cp -a /dev/$node dev/; done
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=666,mode=620 {OURS} dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
tmpfs 1777 "$root/dev/shm"

mkdir proc sys
mount -t proc {OURS} proc
for name in sys sysrq-trigger; do
    [ -e proc/$name ] || continue
    mount --bind proc/$name proc/$name
    mount -o remount,bind,ro proc/$name
done
mount -t sysfs -o ro {OURS} sys
if [ "$hierarchies" = v2 ]; then
    mount -t cgroup2 {OURS} sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 {OURS} sys/fs/cgroup
    for hierarchy in $hierarchies; do
        case $hierarchy in
        v2) at=unified kind=cgroup2 options=rw ;;
        name=systemd) at=systemd kind=cgroup options=none,name=systemd ;;
        *) at=$hierarchy kind=cgroup options=$hierarchy ;;
        esac
        mkdir sys/fs/cgroup/$at
        mount -t $kind -o $options {OURS} sys/fs/cgroup/$at
    done
fi

pivot_root . old
umount -l /old
cd /
while read -r source point _ options _; do
    case $source,$options in
    {OURS},* | *,ro | *,ro,*) ;;
    *) echo "$point is writable: systemd is not started" >&2 && exit 1 ;;
    esac
done </proc/mounts
"""
START: Final = f"""
exec env -i container=safedlv PATH=/usr/sbin:/usr/bin SYSTEMD_GENERATOR_PATH=/nonexistent \\
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/transient \\
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-sys_boot,-syslog \\
    {PROGRAM} --system --unit={UNITS[0]}.target --log-target=null --show-status=no --crash-shell=no --crash-reboot=no
"""


class Systemd:
    """A systemd that runs; make it with :func:`systemd`."""

    def __init__(self, pid: int, cgroups: dict[str, Path]) -> None:
        self.pid = pid
        """As we see it."""
        self.cgroups = cgroups
        """What its root is in each hierarchy, where we see it."""

    def start(self, words: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """A program that begins in systemd's own namespaces and cgroups."""
        kinds = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]
        enter = ["nsenter", f"--target={self.pid}", *kinds, "--wdns=/", "--", *words]
        return subprocess.Popen(enter, text=True, preexec_fn=self._join, **more)  # noqa: PLW1509

    def run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        with self.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            out, err = running.communicate(timeout=timeout)
        return subprocess.CompletedProcess(list(words), running.returncode, out, err)

    def systemctl(self, *words: str) -> str:
        done = self.run("systemctl", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd says of a unit."""
        lines = self.systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    @contextlib.contextmanager
    def service(self, *properties: str, words: Sequence[str] = ("sleep", "600")) -> Iterator[int]:
        """A transient service with these properties, which runs until the end of the block; its PID as we see it."""
        unit = f"t{uuid.uuid4().hex[:8]}.service"
        options = [f"--property={text}" for text in (*properties, "Type=exec")]
        done = self.run("systemd-run", "--quiet", "--collect", f"--unit={unit}", *options, "--", *words)
        assert done.returncode == 0, done.stderr
        try:
            (pid,) = self.members(f"system.slice/{unit}")
            yield pid
        finally:
            self.systemctl("stop", unit)

    def members(self, path: str) -> list[int]:
        """The processes of a cgroup below systemd's root, as we see them."""
        where = self.cgroups.get(V2) or self.cgroups["name=systemd"]
        return [int(pid) for pid in (where / path / "cgroup.procs").read_text().split()]

    def scopes(self) -> list[Path]:
        """The cgroups of its scopes, but for the one that systemd itself is in."""
        found = [path for root in self.cgroups.values() for path in below(root) if path.suffix == ".scope"]
        return [path for path in found if path.name != "init.scope"]

    def _join(self) -> None:
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = self.cgroups.get(controllers)
            if root is not None:
                _, _, inner = path.partition(f"/{root.name}")
                (root / inner.lstrip("/") / "cgroup.procs").write_text("0")


def below(root: Path) -> list[Path]:
    """A cgroup and all below it, the deepest first; what goes meanwhile is left out."""
    return [Path(path) for path, _, _ in os.walk(root, topdown=False)]


@contextlib.contextmanager
def systemd(layout: str, places: Sequence[str]) -> Iterator[Systemd]:
    """A systemd that has started up, to which these ``places`` are shown read-only; at the end it, all that it started
    and its cgroups are gone."""
    require(os.geteuid() == 0, "needs root to run systemd in namespaces")
    require(PROGRAM.exists() and shutil.which("systemd-run"), "needs systemd installed")
    cgroups = _cgroups(LAYOUTS[layout])
    flags = ["--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
    hierarchies = " ".join(name or "v2" for name in cgroups)
    root = mkdtemp()
    words = ["unshare", *flags, "sh", "-ec", BOOT + START, "sh", root, " ".join(places), hierarchies]
    try:
        for path in cgroups.values():
            path.mkdir()
        first = partial(_first, cgroups)
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=first) as outer:  # noqa: PLW1509
            try:
                yield _started(outer, cgroups)
            finally:
                outer.kill()
    finally:
        os.rmdir(root)  # nothing recursive: it is where the other root was mounted, and here it is empty
        wait_until(lambda: _removed(cgroups), "the cgroups of systemd are removed")


def _cgroups(hierarchies: Sequence[str]) -> dict[str, Path]:
    """A new cgroup's path in each of the hierarchies."""
    mounts = read_mounts()
    assert not isinstance(mounts, Unknown)
    name = f"safedlv-test-{uuid.uuid4().hex[:8]}"
    found = {}
    for hierarchy in hierarchies:
        points = [mount.point for mount in mounts if hierarchy in mount.hierarchies]
        require(points, f"needs the cgroup hierarchy {hierarchy or 'v2'}")
        found[hierarchy] = Path(points[0], name)
    return found


def _first(cgroups: dict[str, Path]) -> None:
    """In the child that becomes ``unshare``: into the cgroups, which become the roots; it ends with us."""
    os.setsid()
    confine.set_pdeathsig(signal.SIGKILL)
    for path in cgroups.values():
        (path / "cgroup.procs").write_text("0")


def _started(outer: subprocess.Popen[bytes], cgroups: dict[str, Path]) -> Systemd:
    def first() -> int | None:
        assert outer.poll() is None, "systemd could not be started"
        made = descendants(process_tree(), outer.pid)
        return made[0] if made and Path(f"/proc/{made[0]}/root/run/systemd/private").exists() else None

    pid = wait_until(first, "systemd listens")
    assert pid is not None
    running = Systemd(pid, cgroups)
    assert running.systemctl("is-system-running", "--wait") == "running"
    return running


def _removed(cgroups: dict[str, Path]) -> bool:
    for root in cgroups.values():
        for path in below(root):
            with contextlib.suppress(OSError):
                path.rmdir()
    return not any(path.exists() for path in cgroups.values())
