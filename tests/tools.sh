#!/usr/bin/env bash
# The programs that the demo and the tests need: found, or installed. A second call finds everything and is quick.
#
#   tests/tools.sh python   prints a Python of at least 3.11 that can make a virtual environment
#   tests/tools.sh demo     .cache/bin/go and .cache/bin/dlv (links, where they are on the PATH)
#   tests/tools.sh engine   Docker, for the demo's last act: only called when its user has said yes
#   tests/tools.sh test     the same, .cache/bin/dlv-1.20, and the Debian and npm packages that the tests use
#
# go and dlv: those on the PATH; else dlv by `go install`, where a module proxy is reachable; else the distribution's.
# A newer Docker Engine and docker compose, of a later Debian, are unpacked in .cache/newer for the tests, not installed.
# The tests with Yama and AppArmor need a virtual machine (tests/vm): its image is built in .cache/vm, in a minute,
# by root while other tests run.
# Packages are installed as root or with sudo. What the tests use and cannot be installed is named, and not fatal.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.cache/bin
log=$PWD/.cache/tools.log
PATH=$PATH:/usr/local/go/bin:${HOME:-/root}/go/bin:/usr/sbin:/sbin # sudo and cron leave these out
DELVE=github.com/go-delve/delve/cmd/dlv
OLDEST=1.20.2      # the oldest dlv that safedlv supports
SWITCHES=21        # from 1.21 on, go fetches the tool chain that the newest dlv asks for; one before builds the oldest
LATER=forky        # the Debian whose docker.io is 28
OLDEST_GO=19       # of examples/server
refreshed=

say() { printf '== %s\n' "$*" >&2; }

logged() { # COMMAND...: quietly; its words end up in the log
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then logged "$@"; else logged sudo "$@"; fi
}

can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && { sudo -n true || sudo -v; } 2>>"$log"; }; }
}

refresh() { # the lists of packages, once
    [ -n "$refreshed" ] || { say "reading the lists of packages (apt-get update) ..."; as_root apt-get -qq update || true; }
    refreshed=yes
}

packages() { # PACKAGE...: by apt-get
    can_install || return 1
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends
        -o DPkg::Lock::Timeout=300 install "$@")
    say "installing $* (apt-get) ..."
    as_root "${install[@]}" || { refresh && as_root "${install[@]}"; }
}

# ------------------------------------------------------------ Python

makes_venvs() { # PYTHON
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11) or sys.prefix != sys.base_prefix)' 2>/dev/null
}

find_python() {
    local name path
    for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        path=$(command -v "$name") || continue
        if makes_venvs "$path"; then echo "$path" && return; fi
    done
    return 1
}

python() {
    find_python && return
    { packages python3-venv && find_python; } && return
    { packages python3.11-venv && find_python; } && return # Ubuntu 22.04, whose own is 3.10
    say "no Python of at least 3.11 with venv here, and none could be installed (apt-get install python3-venv); see $log"
    return 1
}

# ------------------------------------------------------------ Go and dlv

minor() { # GO-OR-DLV: the 26 of 1.26.3
    "$1" version 2>/dev/null | sed -nE 's/.*(go|Version: )1\.([0-9]+).*/\2/p' | head -n 1
}

link() { # NAME PROGRAM
    [ "$2" = "$bin/$1" ] || ln -sfn "$2" "$bin/$1"
}

usable_go() { # PROGRAM
    local version
    version=$(minor "$1")
    [ -n "$version" ] && [ "$version" -ge $OLDEST_GO ]
}

distribution_go() { # its newest: the package golang-go may stand for an older one
    can_install || return 1
    refresh
    local version
    version=$(apt-cache search --names-only '^golang-1\.[0-9]+-go$' 2>>"$log" | sed -nE 's/^golang-([0-9.]+)-go .*/\1/p' | sort -V | tail -n 1)
    [ -n "$version" ] && packages "golang-$version-go" ca-certificates && link go "/usr/lib/go-$version/bin/go"
}

find_go() {
    local path
    for path in "$bin/go" "$(command -v go || true)"; do
        if [ -x "$path" ] && usable_go "$path"; then link go "$path" && return; fi
    done
    distribution_go && usable_go "$bin/go" && return
    say "Go 1.$OLDEST_GO or newer is not on the PATH and could not be installed (apt-get install golang-go); see $log"
    return 1
}

go_install() { # VERSION NAME
    local into code=0
    into=$(mktemp -d "$PWD/.cache/install.XXXXXX")
    say "fetching and building dlv $1 (go install; about a minute) ..."
    { logged env GOBIN="$into" CGO_ENABLED=0 timeout 600 "$bin/go" install "$DELVE@$1" && mv "$into/dlv" "$bin/$2"; } || code=1
    rm -rf "$into"
    return $code
}

suits() { # DLV: dlv 1.N knows the programs of Go up to 1.N
    [ -x "$1" ] && [ "$(minor "$1")" -ge "$(minor "$bin/go")" ] 2>/dev/null
}

find_dlv() {
    local path version=v$OLDEST
    for path in "$bin/dlv" "$(command -v dlv || true)"; do
        if suits "$path"; then link dlv "$path" && return; fi
    done
    if [ "$(minor "$bin/go")" -ge $SWITCHES ]; then version=latest; fi
    go_install $version dlv && return
    { packages delve && suits /usr/bin/dlv && link dlv /usr/bin/dlv; } && return
    say "no dlv for $("$bin/go" version) on the PATH, and none could be installed (go install $DELVE@latest); see $log"
    return 1
}

find_old_dlv() {
    [ -x "$bin/dlv-1.20" ] && return
    go_install "v$OLDEST" dlv-1.20 || say "dlv $OLDEST could not be built: tests with it will not run; see $log"
}

# ------------------------------------------------------------ what the tests use

test_packages() {
    local missing=() pair pairs=(strace:strace gdb:gdb tmux:tmux capsh:libcap2-bin setpriv:util-linux strip:binutils
        tini:tini dumb-init:dumb-init scmp_sys_resolver:seccomp systemd-run:systemd "qemu-$(uname -m):qemu-user")
    timeout 10 docker version >/dev/null 2>&1 || pairs+=(dockerd:docker.io iptables:iptables) # an engine that runs will do
    for pair in "${pairs[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 || missing+=(gcc libc6-dev)
    [ ${#missing[@]} = 0 ] || packages "${missing[@]}" ||
        say "not installed: ${missing[*]} (needs root or sudo, and apt-get): tests with them will not run; see $log"
}

editor() { # the DAP client that tests/live/editor.cjs drives: two packages of npm's, in .cache/editor
    local into=$PWD/.cache/editor
    if command -v node >/dev/null && cmp -s tests/package.json "$into/package.json"; then return 0; fi
    { command -v node && command -v npm; } >/dev/null || packages nodejs npm || true
    mkdir -p "$into/making"
    cp tests/package.json "$into/making/"
    if logged timeout 300 npm install --prefix "$into/making" --ignore-scripts --no-audit --no-fund --prefer-offline; then
        rm -rf "$into/node_modules"
        mv "$into/making/node_modules" "$into/" && mv "$into/making/package.json" "$into/" # last: it says that all is there
    else
        say "@vscode/debugadapter-testsupport could not be installed (npm): a test with it will not run; see $log"
    fi
    rm -rf "$into/making"
}

newer_engine() { # unpacked in .cache/newer, with lists of packages of their own: this machine's stay as they are
    local into=$PWD/.cache/newer making=$PWD/.cache/newer.making deb
    [ ! -x "$into/usr/sbin/dockerd" ] || return 0
    rm -rf "$making"
    mkdir -p "$making"/{lists,archives}/partial "$making/debs"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $LATER main" >"$making/sources"
    local own=(-qq -o "Dir::Etc::SourceList=$making/sources" -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=
        -o "Dir::State::Lists=$making/lists" -o "Dir::Cache=$making" -o Acquire::Languages=none)
    say "fetching a newer Docker Engine and docker compose (70 MB) ..."
    if command -v dpkg-deb >/dev/null && logged apt-get "${own[@]}" update &&
        (cd "$making/debs" && logged apt-get "${own[@]}" download docker.io docker-cli containerd docker-compose); then
        for deb in "$making"/debs/*.deb; do logged dpkg-deb -x "$deb" "$making/root"; done
        rm -rf "$into" && mv "$making/root" "$into"
    else
        say "no newer Docker Engine (needs apt-get and a Debian mirror): the tests with it will not run; see $log"
    fi
    rm -rf "$making"
}

virtual_machine() {
    [ "$(uname -m)" = x86_64 ] || return 0 # as its image is
    [ ! -e "$(tests/vm/image.sh name)/root.ext4" ] || return 0
    if [ "$(id -u)" = 0 ] && { command -v debootstrap >/dev/null || packages debootstrap debian-archive-keyring; }; then
        return # the tests build it themselves (tests/vm/lab.py), while others run
    fi
    if command -v debootstrap >/dev/null || packages debootstrap debian-archive-keyring; then
        say "building the image of a virtual machine (debootstrap; about a minute) ..."
        as_root tests/vm/image.sh build && return
    fi
    say "no image of a virtual machine (needs root or sudo, debootstrap and a Debian mirror):" \
        "tests with Yama and AppArmor will not run; see $log"
}

# ------------------------------------------------------------

mkdir -p "$bin"
case ${1:-} in
python) python ;;
demo) find_go && find_dlv ;;
engine) packages docker.io iptables ;;
test)
    test_packages
    editor
    newer_engine
    virtual_machine
    if find_go; then
        find_dlv || true
        find_old_dlv
    fi
    ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
