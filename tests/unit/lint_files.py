"""Files as they are found in projects, and what lint has to say of each line: no more and no less.

A line that something has to be said of names the rules in a comment, ``lint: RULE``; where a format has no comments
the case names the lines.
"""

from __future__ import annotations

import json
import re

from attrs import field, frozen

_MARK = re.compile(r"(?:#|//) lint: ([\w -]+)")


def profile(*rules: dict[str, object]) -> str:
    """A seccomp profile that allows everything but the rules."""
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules)})


def rule(action: str, request: int | None = None) -> dict[str, object]:
    """Of ptrace, as a whole or for one request."""
    arguments = [] if request is None else [{"index": 0, "value": request, "op": "SCMP_CMP_EQ"}]
    return {"names": ["ptrace"], "action": action, "args": arguments}


NO_PTRACE = profile(rule("SCMP_ACT_ERRNO"))
Expected = tuple[tuple[int, str], ...]


@frozen
class Case:
    """One file."""

    text: str
    lines: Expected = ()
    """Line and rule, of what no comment says."""
    beside: dict[str, str] = field(factory=dict)
    """Other files, by name."""
    file: str = ""

    @property
    def expected(self) -> Expected:
        marked = (
            (number, match) for number, line in enumerate(self.text.split("\n"), 1) if (match := _MARK.search(line))
        )
        return tuple(sorted([*self.lines, *((number, name) for number, match in marked for name in match[1].split())]))


COMPOSE = {
    "plain": Case("services:\n  web:\n    build: .\n    ports: ['8080:8080']\n"),
    "hardened, and debuggable": Case("""\
version: "3.9"
services:
  api:
    image: registry.example.com/api:1.4
    user: "1000:1000"
    read_only: true
    cap_drop: [ALL]
    security_opt:
      - no-new-privileges:true
    tmpfs: [/tmp]
    pids_limit: 200
    mem_limit: 512m
    init: true
    restart: unless-stopped
"""),
    "as every article says": Case("""\
services:
  app:
    build: {context: ., dockerfile: Dockerfile.debug}
    command: dlv debug --headless --listen=:2345 --api-version=2 --accept-multiclient ./cmd/app
    cap_add:
      - SYS_PTRACE
    security_opt:
      - "seccomp:unconfined"  # lint: seccomp-unconfined
      - apparmor=unconfined  # lint: apparmor-unconfined
    ports: ["2345:2345"]
"""),
    "privileged": Case("""\
services:
  app:
    image: app
    privileged: true  # lint: privileged
    volumes:
      - /var/run/docker.sock:/var/run/docker.sock
"""),
    "privileged: false, and a truth that is not": Case("""\
services:
  a: {image: a, privileged: false}
  b: {image: b, privileged: "${PRIVILEGED:-false}"}
  c: {image: c, privileged: "${PRIVILEGED:-true}"}  # lint: privileged
  d: {image: d, privileged: "${PRIVILEGED}"}
"""),
    "every capability": Case("""\
services:
  app:
    image: app
    cap_drop: [NET_RAW]
    cap_add: [ALL]  # lint: all-capabilities
"""),
    "a strict profile": Case(
        """\
services:
  web:
    image: web
    security_opt: ["seccomp=./strict.json", "no-new-privileges:true"]  # lint: seccomp
  other:
    image: other
    security_opt:
      - seccomp:strict.json  # lint: seccomp
""",
        beside={"strict.json": NO_PTRACE},
    ),
    "a profile that allows it": Case(
        'services: {web: {image: web, security_opt: ["seccomp=fine.json"]}}\n',
        beside={"fine.json": profile({"names": ["reboot", "kexec_load"], "action": "SCMP_ACT_ERRNO"})},
    ),
    "a profile that is not there": Case(
        "services:\n  web:\n    image: web\n    security_opt: [seccomp=gone.json]  # lint: seccomp-unknown\n"
    ),
    "the engine's own, by name": Case("services: {web: {image: web, security_opt: [seccomp=builtin]}}\n"),
    "the last profile holds": Case(
        """\
services:
  web:
    image: web
    security_opt:
      - seccomp=unconfined
      - seccomp=builtin
"""
    ),
    "anchors and merges": Case("""\
x-debug: &debug
  privileged: true  # lint: privileged
  security_opt: [seccomp=unconfined]  # lint: seccomp-unconfined
x-limits: &limits
  pids_limit: 8  # lint: thread-limit
services:
  web:
    <<: [*debug, *limits]
    image: web
  worker:
    <<: *debug
    image: worker
    security_opt: []
  plain:
    image: plain
"""),
    "extends": Case("""\
services:
  base:
    image: base
    security_opt: [seccomp=unconfined]  # lint: seccomp-unconfined
  web:
    extends: {service: base}
    command: serve
  other:
    extends: base
    security_opt: [seccomp=builtin]
"""),
    "extends another file": Case("""\
services:
  web:
    extends:
      service: base
      file: common.yaml  # lint: elsewhere
"""),
    "limits": Case("""\
services:
  small:
    image: small
    mem_limit: 64m  # lint: memory-limit
    pids_limit: 10  # lint: thread-limit
  deployed:
    image: deployed
    deploy:
      resources:
        limits: {memory: 32M, cpus: "0.5"}  # lint: memory-limit
        reservations: {memory: 20M}
  twice:
    image: twice
    mem_limit: 48m  # lint: memory-limit
    deploy: {resources: {limits: {memory: 48m}}}
  by-swap: {image: swap, mem_limit: 64m, memswap_limit: 256m}
  enough: {image: enough, mem_limit: 128m, pids_limit: -1}
  none: {image: none, mem_limit: 0, pids_limit: 0}
  later: {image: later, mem_limit: "${LIMIT}", pids_limit: "${PIDS:-100}"}
"""),
    "users": Case("""\
services:
  a: {image: a, user: "1000"}
  b: {image: b, user: node, cap_drop: [ALL]}
  c: {image: c, user: "${UID}:${GID}", cap_add: [SYS_PTRACE]}
  d:
    image: d
    user: "1000"
    cap_add:
      - SYS_PTRACE  # lint: idle-capability
"""),
    "a step down": Case("""\
services:
  gosu:
    image: a
    entrypoint: ["tini", "--", "gosu", "app"]  # lint: credentials
    command: ["/srv/app", "serve"]
  su-exec: {image: b, command: su-exec app:app /srv/app}  # lint: credentials
  shell:
    image: c
    command: sh -c "chown -R app /data && exec setpriv --reuid=app --clear-groups /srv/app"  # lint: credentials
  to-root: {image: d, command: gosu root /srv/app}
  able: {image: e, command: gosu app /srv/app, cap_add: [SYS_PTRACE]}
  argument: {image: f, command: /srv/app --helper gosu app}
"""),
    "an ordinary stack": Case("""\
services:
  proxy:
    image: traefik:v3
    command: ["--providers.docker", "--entrypoints.web.address=:80"]
    ports: ["80:80"]
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
  db:
    image: postgres:16
    environment: {POSTGRES_PASSWORD: secret}
    shm_size: 128m
    healthcheck: {test: ["CMD-SHELL", "pg_isready"], interval: 5s}
  cache:
    image: redis:7
    sysctls: {net.core.somaxconn: 1024}
    ulimits: {nofile: 65536, memlock: -1}
  app:
    build: .
    depends_on: [db, cache]
    pid: host
    network_mode: host
    ipc: shareable
    userns_mode: host
    cgroup_parent: web.slice
    group_add: ["999"]
    devices: ["/dev/fuse"]
    cap_add: [NET_ADMIN, SYS_ADMIN]
    labels: {org.example.privileged: "true"}
    environment:
      - PRIVILEGED=true
      - SECURITY_OPT=seccomp=unconfined
"""),
    "a sysctl that no container has": Case("""\
services:
  a:
    image: a
    sysctls:
      - net.ipv4.ip_forward=1
      - kernel.yama.ptrace_scope=0  # lint: forbidden-sysctl
  b:
    image: b
    sysctls:
      kernel.yama.ptrace_scope: 0  # lint: forbidden-sysctl
"""),
    "what the host decides": Case("""\
services:
  sandboxed: {image: a, runtime: runsc}  # lint: sandbox-runtime
  runc: {image: a, runtime: runc}
  emulated: {image: b, platform: linux/amd64}  # lint: emulated-platform
  labelled:
    image: c
    security_opt: ["apparmor:my-profile", "label=type:svirt_t"]  # lint: apparmor-unknown
"""),
    "privileged above a profile": Case(
        """\
services:
  web:
    image: web
    privileged: true  # lint: privileged
    security_opt: ["seccomp=./strict.json"]  # lint: seccomp-unknown
""",
        beside={"strict.json": NO_PTRACE},
    ),
    "as JSON": Case(
        '{"services": {"web": {"image": "web",\n  "privileged": true}}}\n', ((2, "privileged"),), file="compose.json"
    ),
}

SCRIPTS = {
    "one line": Case("docker run --rm -it golang:1.26 go test ./...\n"),
    "several lines": Case(
        """\
#!/bin/sh
set -e
docker run -d --name web \\
    --cap-drop=ALL \\
    --privileged \\
    --security-opt seccomp=unconfined \\
    -p 8080:8080 -v "$PWD:/src" \\
    registry.example.com/web:latest --privileged --memory 3m
""",
        ((5, "privileged"), (6, "seccomp-unconfined")),
    ),
    "a Makefile": Case(
        "run:\n\t@docker run --rm $(FLAGS) -e MODE=debug --cap-add ALL $(IMAGE):$(TAG) serve\n",
        ((2, "all-capabilities"),),
    ),
    "a comment, and what is only said": Case("""\
# docker run --privileged web
echo "try: docker run --privileged web"
printf 'docker run --privileged %s' web; docker run web --privileged
docker exec --privileged web sh
docker compose run --privileged web
"""),
    "limits, short options": Case(
        "sudo docker run -dm 64m --pids-limit=8 web; docker container run -m64m --memory-swap -1 -u1000 web\n",
        ((1, "memory-limit"), (1, "thread-limit")),
    ),
    "a text": Case(
        """\
# Debugging
Don't forget: `docker run --security-opt apparmor:unconfined web` is what people write, and it isn't needed.

    $ docker run --privileged=true web
    $ docker run --privileged=false web
""",
        ((2, "apparmor-unconfined"), (4, "privileged")),
        file="DEBUGGING.md",
    ),
    "a remote shell": Case("ssh host 'docker run --privileged web'\nsh -c \"docker create --cap-add=ALL web\"\n",
        ((1, "privileged"), (2, "all-capabilities"))),
    "a profile": Case(
        "docker run --security-opt seccomp=./strict.json web\ndocker run --security-opt seccomp=\"$PROFILE\" web\n",
        ((1, "seccomp"), (2, "seccomp-unknown")),
        beside={"strict.json": NO_PTRACE},
    ),
    "a step down": Case("docker run --entrypoint gosu web app /srv/app\n", ((1, "credentials"),)),
    "a pipeline": Case(
        """\
jobs:
  test:
    steps:
      - run: |
          docker build -t web .
          docker run --rm --privileged web
""",
        ((6, "privileged"),),
        file="pipeline.yml",
    ),
}  # fmt: skip

DEVCONTAINERS = {
    "plain": Case('{"image": "mcr.microsoft.com/devcontainers/go:1", "remoteUser": "vscode"}\n'),
    "as the Go template was": Case("""\
// For format details, see https://aka.ms/devcontainer.json
{
	"name": "Go",
	"build": { "dockerfile": "Dockerfile", "args": { "VARIANT": "1.26" } },
	"runArgs": [
		"--cap-add=SYS_PTRACE",
		"--security-opt", "seccomp=unconfined" // lint: seccomp-unconfined
	],
	/* what an editor sets,
and where */
	"customizations": { "vscode": { "extensions": ["golang.Go"], "settings": { "go.useLanguageServer": true } } },
	"remoteUser": "vscode",
}
"""),
    "properties": Case("""\
{
  "image": "ubuntu",
  "privileged": true, // lint: privileged
  "capAdd": ["SYS_PTRACE"],
  "securityOpt": ["seccomp=unconfined"], // lint: seccomp-unconfined
  "postCreateCommand": "echo https://example.com // no comment, docker run --privileged x"
}
"""),
    "limits": Case("""\
{
  "image": "ubuntu",
  "runArgs": ["--memory=64m", "--pids-limit", "8"] // lint: memory-limit thread-limit
}
"""),
    "a profile": Case(
        """\
{
  "image": "ubuntu",
  "securityOpt": ["seccomp=${localWorkspaceFolder}/strict.json"] // lint: seccomp
}
""",
        beside={"strict.json": NO_PTRACE},
    ),
    "with Compose": Case(
        '{"dockerComposeFile": "compose.yaml", "service": "app", "workspaceFolder": "/src", "remoteUser": "app"}\n'
    ),
}
