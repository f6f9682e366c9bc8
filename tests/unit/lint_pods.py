"""Kubernetes manifests and seccomp profiles as they are found, and what lint has to say of each line."""

from __future__ import annotations

import json

from tests.unit.lint_files import Case, profile, rule

KUBERNETES = {
    "a deployment": Case("""\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: web:1
          ports: [{containerPort: 8080}]
          resources: {limits: {memory: 256Mi, cpu: "1"}, requests: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""),
    "restricted, and debuggable": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: web
      image: web
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
"""),
    "too much": Case("""\
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: db
spec:
  template:
    spec:
      securityContext:
        seccompProfile:
          type: Unconfined  # lint: seccomp-unconfined
      containers:
        - name: db
          image: db
          securityContext:
            privileged: true  # lint: privileged
        - name: helper
          image: helper
          securityContext:
            capabilities:
              add:
                - ALL  # lint: all-capabilities
            appArmorProfile: {type: Unconfined}  # lint: apparmor-unconfined
"""),
    "a profile of the node": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: a
      image: a
      securityContext:
        seccompProfile: {type: Localhost, localhostProfile: strict.json}  # lint: seccomp-unknown
    - name: b
      image: b
      securityContext:
        seccompProfile: {type: Localhost, localhostProfile: x.json}
        privileged: true  # lint: privileged
"""),
    "init containers end": Case("""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  template:
    spec:
      initContainers:
        - name: sysctl
          image: busybox
          command: [sysctl, -w, vm.max_map_count=262144]
          securityContext: {privileged: true}
        - name: sidecar
          image: proxy
          restartPolicy: Always
          securityContext: {privileged: true}  # lint: privileged
      containers:
        - {name: agent, image: agent}
"""),
    "jobs": Case("""\
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: job
            image: job
            resources:
              limits:
                memory: 64Mi  # lint: memory-limit
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template: {spec: {containers: [{name: job, image: job, securityContext: {privileged: true}}]}}  # lint: privileged
"""),
    "a list": Case("""\
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: ReplicaSet
  metadata: {name: web}
  spec:
    template:
      spec:
        containers:
        - name: web
          image: web
          securityContext:
            privileged: true  # lint: privileged
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: web}
  data: {privileged: "true", compose: "services: {web: {privileged: true}}"}
"""),
    "a debugger beside, alone": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - {name: web, image: web}
    - name: debugger
      image: dlv
      command: [dlv, attach, "7", --headless, --listen=:2345]  # lint: pid-namespace
"""),
    "a debugger beside, as another user": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  shareProcessNamespace: true
  containers:
    - {name: web, image: web, securityContext: {runAsUser: 1000}}
    - name: debugger
      image: dlv
      command: [dlv, attach, "7", --headless]  # lint: credentials
      securityContext: {runAsUser: 0}
"""),
    "a debugger in the program's own container": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - {name: proxy, image: proxy}
    - {name: web, image: web, command: [sh, -c, "/srv/app & dlv attach $! --headless"]}
    - {name: exec, image: web, command: [dlv, exec, /srv/app, --headless]}
"""),
    "a debugger beside, as it should be": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  shareProcessNamespace: true
  securityContext: {runAsUser: 1000}
  containers:
    - {name: web, image: web}
    - {name: debugger, image: dlv, args: [dlv, attach, "7"]}
"""),
    "a step down": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: web
      image: web
      command: [gosu, app, /srv/app]  # lint: credentials
"""),
    "what the host decides": Case("""\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    container.apparmor.security.beta.kubernetes.io/web: localhost/mine  # lint: apparmor-unknown
spec:
  runtimeClassName: gvisor  # lint: sandbox-runtime
  hostPID: true
  containers:
    - name: web
      image: web
      securityContext: {runAsUser: 1000, capabilities: {add: [SYS_PTRACE]}}  # lint: idle-capability
"""),
    "a sysctl that no pod has": Case("""\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  securityContext:
    sysctls:
      - {name: net.core.somaxconn, value: "1024"}
      - {name: kernel.yama.ptrace_scope, value: "0"}  # lint: forbidden-sysctl
  containers: [{name: web, image: web}]
"""),
}

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def _pretty(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


def _refusing(*names: str, **others: object) -> dict[str, object]:
    return {"names": list(names), "action": ERRNO, **others}


PROFILES = {
    "refuses nothing of dlv's": Case(_pretty({"defaultAction": ALLOW, "syscalls": [_refusing("reboot", "mount")]})),
    "refuses ptrace": Case(
        _pretty({"defaultAction": ALLOW, "syscalls": [_refusing("mount"), _refusing("ptrace", "reboot")]}),
        ((10, "seccomp"),),
    ),
    "refuses one request": Case(profile(rule(ERRNO, 0x4200)) + "\n", ((1, "seccomp"),)),
    "refuses requests that dlv does not make": Case(profile(rule(ERRNO, 0x4206), rule(ERRNO, 0)) + "\n"),
    "refuses what dlv does without": Case(
        _pretty({"defaultAction": ALLOW, "syscalls": [_refusing("process_vm_readv", "process_vm_writev", "uname")]})
    ),
    "kills": Case(profile(rule("SCMP_ACT_KILL_PROCESS", 7)) + "\n", ((1, "seccomp"),)),
    "only without the capability": Case(
        _pretty({"defaultAction": ALLOW, "syscalls": [_refusing("ptrace", excludes={"caps": ["CAP_SYS_PTRACE"]})]}),
        ((4, "seccomp"),),
    ),
    "a list of what is allowed, without ptrace": Case(
        _pretty({"defaultAction": ERRNO, "syscalls": [{"names": ["read", "write", "exit_group"], "action": ALLOW}]}),
        ((2, "seccomp"),),
    ),
    "left to somebody": Case(profile(rule("SCMP_ACT_NOTIFY")) + "\n", ((1, "seccomp"),)),
}  # fmt: skip
