"""The debuggable copy as a value: what the engine is told, from what it tells; and what is not to be copied."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from safedlv.errors import SafedlvError
from safedlv.sibling.clone import BESIDE, SWAP, Clone, Wish, anonymous_volumes, clone_of
from safedlv.sibling.clone_difference import differences, undeclared
from safedlv.sibling.clone_refusals import refuse
from safedlv.sibling.clone_steps import KINDS, Create, Hold, Start, Stop, step_of, steps_of
from safedlv.sibling.clone_text import docker_run, patch

Document = dict[str, Any]
IDENT = "0123456789ab" + "c" * 52
IMAGE: Document = {"Id": "sha256:1", "Config": {"Entrypoint": ["/tini"], "Cmd": ["/app"], "Env": ["A=of-the-image"]}}


def container(config: Document | None = None, host: Document | None = None, **more: Any) -> Document:
    """What ContainerInspect tells, as far as it matters."""
    return {
        "Id": IDENT,
        "Name": "/web",
        "Image": "sha256:1",
        "State": {"Running": True, "Status": "running"},
        "Config": {
            "Image": "app:1",
            "Hostname": IDENT[:12],
            "Entrypoint": ["/tini"],
            "Cmd": ["/app"],
            **(config or {}),
        },
        "HostConfig": {"NetworkMode": "default", "RestartPolicy": {"Name": "no"}, **(host or {})},
        "Mounts": [],
        "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "b"}}},
        **more,
    }


def copy_of(original: Document, *ids: str, mode: str = SWAP, **wish: Any) -> Clone:
    wanted = Wish(mode, ids or ("cap:sys_ptrace",), named_image="sha256:1", record="r", record_path="h:/r", **wish)
    return clone_of(original, IMAGE, wanted)


def as_inspected(clone: Clone, original: Document) -> Document:
    """What an engine that takes everything as it is told would tell about the copy."""
    body = deepcopy(clone.body)
    host = body.pop("HostConfig")
    body.pop("NetworkingConfig", None)
    return {**original, "Config": body, "HostConfig": host}


def test_nothing_is_changed_but_what_is_declared() -> None:
    original = container(
        {"Env": ["A=1"], "Labels": {"a": "b"}}, {"CapAdd": ["CHOWN"], "Memory": 5, "Unheard": {"of": 1}}
    )
    before = deepcopy(original)
    clone = copy_of(original)
    found = differences(original, as_inspected(clone, original))
    assert original == before
    assert {one.path for one in found} == {change.path for change in clone.changes}
    assert clone.body["HostConfig"]["CapAdd"] == ["CHOWN", "SYS_PTRACE"]
    assert clone.body["HostConfig"]["Unheard"] == {"of": 1}


# ---------------------------------------------------------------- what does not come back as it was told


def test_a_hostname_that_the_engine_chose_is_chosen_anew() -> None:
    assert copy_of(container()).body["Hostname"] == ""
    assert copy_of(container({"Hostname": "mine"})).body["Hostname"] == "mine"
    assert copy_of(container({"Hostname": "mine"}, {"UTSMode": "host"})).body["Hostname"] == ""


def test_in_another_container_s_network_nothing_of_that_is_its_own() -> None:
    """Each of these would be refused (moby runconfig/hostconfig.go: validateNetContainerMode)."""
    config = {"Hostname": "theirs", "Domainname": "d", "ExposedPorts": {"80/tcp": {}}}
    clone = copy_of(container(config, {"NetworkMode": "container:x"}))
    assert [clone.body[key] for key in ("Hostname", "Domainname", "ExposedPorts")] == ["", "", None]
    assert (clone.joins, clone.leaves, "NetworkingConfig" in clone.body) == ((), (), False)


def test_no_entrypoint_is_not_the_image_s() -> None:
    assert copy_of(container({"Entrypoint": None})).body["Entrypoint"] == [""]
    assert copy_of(container()).body["Entrypoint"] == ["/tini"]


def test_an_image_whose_name_was_given_away_goes_by_its_id() -> None:
    wish = Wish(mode=SWAP, ids=("cap:sys_ptrace",), named_image="sha256:2")
    clone = clone_of(container(), IMAGE, wish)
    assert clone.body["Image"] == "sha256:1"
    assert ("Config", "Image") in {change.path for change in clone.changes}


@pytest.mark.parametrize(
    ("mode", "networks", "first", "joins", "leaves"),
    [
        ("default", {"bridge": {}}, {}, [], ()),
        ("none", {"none": {}}, {}, [], ()),
        ("net", {"net": {"Aliases": ["web", IDENT[:12]]}}, {"net": {"Aliases": ["web"]}}, [], ()),
        ("0a0b", {"net": {"NetworkID": "0a0bff", "Links": ["db:d"]}}, {"net": {"Links": ["db:d"]}}, [], ()),
        ("net", {"net": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "IPAddress": "10.0.0.9"}, "b": {}},
         {"net": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}, ["b"], ()),
        ("net", {"other": {}}, {}, ["other"], ("net",)),
        ("default", {}, {}, [], ("bridge",)),
        ("default", {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}, "DriverOpts": {"a": "b"}}},
         {"default": {"DriverOpts": {"a": "b"}}}, [], ()),
        ("a",
         {"a": {"DNSNames": [], "MacAddress": "02::1"}, "b": {"DNSNames": [], "MacAddress": "02::2", "GwPriority": 1}},
         {"a": {}, "b": {"MacAddress": "02::2", "GwPriority": 1}}, [], ()),
        ("default", {"bridge": {"DNSNames": None, "MacAddress": "02::1"}, "b": {"DNSNames": ["b"]}},
         {"default": {}, "b": {}}, [], ()),
        ("a", {"a": {"MacAddress": "02::1"}, "b": {"MacAddress": "02::2"}}, {}, ["b"], ()),
    ],
)  # fmt: skip
def test_networks(mode: str, networks: Document, first: Document, joins: list[str], leaves: tuple[str, ...]) -> None:
    clone = copy_of(container(host={"NetworkMode": mode}, NetworkSettings={"Networks": networks}))
    assert (clone.body.get("NetworkingConfig") or {}).get("EndpointsConfig", {}) == first
    assert [endpoint.key for endpoint in clone.joins] == joins
    assert clone.leaves == leaves


# ---------------------------------------------------------------- volumes

VOLUMES = [
    {"Type": "volume", "Name": "named", "Destination": "/named", "RW": True},
    {"Type": "volume", "Name": "f1", "Destination": "/of-the-image", "RW": True},
    {"Type": "volume", "Name": "f2", "Destination": "/without-source", "RW": True},
    {"Type": "bind", "Source": "/srv", "Destination": "/bound", "RW": True},
]


def with_volumes(**host: Any) -> Document:
    bound = {
        "Binds": ["named:/named", "/srv:/bound"],
        "Mounts": [{"Type": "volume", "Target": "/without-source"}],
        **host,
    }
    return container({"Volumes": {"/of-the-image": {}}}, bound, Mounts=deepcopy(VOLUMES))


def test_in_its_place_the_anonymous_volumes_go_on() -> None:
    assert [mount["Name"] for mount in anonymous_volumes(with_volumes())] == ["f1", "f2"]
    host = copy_of(with_volumes()).body["HostConfig"]
    assert host["Binds"] == ["named:/named", "/srv:/bound", "f1:/of-the-image"]
    assert host["Mounts"] == [{"Type": "volume", "Target": "/without-source", "Source": "f2"}]


def test_beside_it_they_are_new_and_what_is_shared_is_said() -> None:
    clone = copy_of(with_volumes(), mode=BESIDE)
    assert clone.body["HostConfig"]["Binds"] == ["named:/named", "/srv:/bound"]
    assert "Source" not in clone.body["HostConfig"]["Mounts"][0]
    said = "\n".join(clone.describe())
    assert "both write to the same volume at /named" in said
    assert "both write to the same directory at /bound" in said
    assert "both write to the same volume at /of-the-image" not in said


def test_what_another_container_lends_is_not_its_own() -> None:
    assert [mount["Name"] for mount in anonymous_volumes(with_volumes(VolumesFrom=["db"]))] == ["f2"]


# ---------------------------------------------------------------- what it takes


def test_the_last_profile_counts_and_the_rest_stays() -> None:
    options = ["seccomp=old", "no-new-privileges", "apparmor=a", "label=type:t"]
    host = copy_of(container(host={"SecurityOpt": options}), "seccomp", profile="{}").body["HostConfig"]
    assert host["SecurityOpt"] == ["no-new-privileges", "apparmor=a", "label=type:t", "seccomp={}"]
    host = copy_of(container(host={"SecurityOpt": options}), "label:apparmor", apparmor="b").body["HostConfig"]
    assert host["SecurityOpt"] == ["seccomp=old", "no-new-privileges", "label=type:t", "apparmor=b"]


def test_limits_grow_only_where_the_container_has_them() -> None:
    limited = container(host={"PidsLimit": 10, "Memory": 1 << 20, "MemorySwap": -1})
    host = copy_of(limited, "limit:pids", "limit:memory").body["HostConfig"]
    assert (host["PidsLimit"], host["Memory"], host["MemorySwap"]) == (74, (1 << 20) + (256 << 20), -1)
    for change in ("limit:pids", "limit:memory"):
        with pytest.raises(SafedlvError, match="not the container's own"):
            copy_of(container(), change)


@pytest.mark.parametrize("change", ["reboot", "end-tracer", "namespace:pid", "label:apparmor", "label:selinux", "thaw"])
def test_what_no_copy_can_have(change: str) -> None:
    with pytest.raises(SafedlvError, match="no copy would help"):
        copy_of(container(), change)


@pytest.mark.parametrize("change", ["user", "root", "delve"])
def test_what_concerns_the_debugger_alone_changes_nothing(change: str) -> None:
    assert [one for one in copy_of(container(), change).changes if one.path[0] != "Config"] == []


def test_beside_it_nothing_that_only_one_can_have() -> None:
    host = {
        "AutoRemove": True,
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81/tcp": None},
        "NetworkMode": "net",
    }
    networks = {"Networks": {"net": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}}}
    original = container({"MacAddress": "02:00:00:00:00:01"}, host, NetworkSettings=networks)
    clone = copy_of(original, mode=BESIDE)
    made = clone.body["HostConfig"]
    assert made["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}], "81/tcp": []}
    assert (made["AutoRemove"], clone.body["MacAddress"], "NetworkingConfig" in clone.body) == (False, "", False)
    found = undeclared(differences(original, as_inspected(clone, original)), clone.changes)
    assert found == ()


@pytest.mark.parametrize("mode", [SWAP, BESIDE])
def test_compose_does_not_take_it_for_the_service_s_own(mode: str) -> None:
    """A one-off container is left out of ps, exec and up, and goes with down."""
    labels = {"com.docker.compose.project": "p", "com.docker.compose.oneoff": "False"}
    clone = copy_of(container({"Labels": labels}), mode=mode)
    assert clone.body["Labels"]["com.docker.compose.oneoff"] == "True"
    assert clone.body["Labels"]["com.docker.compose.project"] == "p"
    assert "com.docker.compose.oneoff" not in copy_of(container()).body["Labels"]


# ---------------------------------------------------------------- what is not copied, or not stopped


@pytest.mark.parametrize(
    ("mode", "original", "sentence"),
    [
        (SWAP, container(host={"AutoRemove": True}), "--rm"),
        (SWAP, container({"Labels": {"io.kubernetes.pod.uid": "x"}}), "belongs to Kubernetes"),
        (BESIDE, container({"Labels": {"safedlv.copy": "x"}}), "copy itself"),
        (BESIDE, container(State={"Running": True, "Paused": True}), "is paused"),
        (BESIDE, container(State={"Running": False, "Status": "exited"}), "does not run: it is exited"),
        (BESIDE, container(State={"Running": True, "Restarting": True}), "does not run"),
        (
            BESIDE,
            container(
                Mounts=[{"Destination": "/d", "Mode": "rw,Z"}], ProcessLabel="system_u:system_r:container_t:s0:c1,c2"
            ),
            "labelled for this container alone",
        ),
    ],
)
def test_refusals(mode: str, original: Document, sentence: str) -> None:
    with pytest.raises(SafedlvError, match=sentence):
        refuse(original, (), mode)


def test_what_is_not_refused() -> None:
    refuse(container(host={"AutoRemove": True}), (), BESIDE)
    refuse(container(Mounts=[{"Destination": "/d", "Mode": "Z"}]), (), BESIDE)  # no SELinux
    stopped = container(host={"NetworkMode": f"container:{IDENT}"}, State={"Running": False}, Name="/dead")
    refuse(container(), (stopped,), SWAP)


@pytest.mark.parametrize("key", ["NetworkMode", "PidMode", "IpcMode"])
def test_one_that_others_have_joined_is_not_stopped(key: str) -> None:
    other = container(host={key: f"container:{IDENT}"}, Name="/child")
    with pytest.raises(SafedlvError, match="container child has joined"):
        refuse(container(), (other,), SWAP)
    refuse(container(), (other,), BESIDE)


# ---------------------------------------------------------------- differences


def test_values_of_the_environment_are_not_shown() -> None:
    one, other = container({"Env": ["A=secret", "B"]}), container({"Env": ["A=other"]})
    found = differences(one, other)
    assert [difference.shown() for difference in found] == ["Config.Env.A"]
    assert "secret" not in " ".join(difference.shown() for difference in found)


def test_the_same_in_other_words() -> None:
    one = container(host={"CapAdd": ["SYS_PTRACE"], "Binds": None, "Links": ["/db:/web/d"], "Dns": []})
    other = container(host={"CapAdd": ["CAP_SYS_PTRACE"], "Binds": [], "Links": ["/db:/web-copy/d"], "Dns": None})
    assert differences(one, other) == ()


def test_every_difference_is_seen() -> None:
    one = container({"Cmd": ["a", "b"]}, {"Binds": ["a:/a", "b:/b"]})
    other = container({"Cmd": ["b", "a"]}, {"Binds": ["b:/b", "a:/a"]}, NetworkSettings={"Networks": {}})
    assert [found.path for found in differences(one, other)] == [
        ("Config", "Cmd"),
        ("NetworkSettings", "Networks", "bridge", "connected"),
    ]


# ---------------------------------------------------------------- steps


def test_the_original_is_touched_last_and_the_record_holds_no_secret() -> None:
    original = container({"Env": ["A=secret"], "StopTimeout": 3}, {"RestartPolicy": {"Name": "always"}})
    prepare, switch = steps_of(copy_of(original), original, "r", None, snapshot=True)
    assert [step.kind for step in (*prepare, *switch)] == [
        *("commit", "create", "hold", "stop", "rename", "rename-copy", "start"),
    ]
    for step in (*prepare, *switch):
        document = step.document()
        assert "secret" not in str(document)
        assert step_of(document).document() == document
        assert step.describe()
    assert isinstance(switch[1], Stop)
    assert switch[1].patience() == 8.0
    assert isinstance(switch[0], Hold)


def test_beside_it_the_original_is_not_touched_at_all() -> None:
    original = container()
    prepare, switch = steps_of(copy_of(original, mode=BESIDE), original, "r", "mine", snapshot=False)
    assert [(type(step), getattr(step, "name", "")) for step in (*prepare, *switch)] == [
        (Create, "mine"),
        (Start, "mine"),
    ]


@pytest.mark.parametrize("document", [{}, {"kind": "explode"}, {"kind": "stop"}, {"kind": "start", "a": 1}])
def test_what_is_no_step(document: Document) -> None:
    with pytest.raises(ValueError, match="no step"):
        step_of(document)
    assert set(KINDS) >= {"commit", "create", "join", "leave", "hold", "stop", "rename", "rename-copy", "start"}


# ---------------------------------------------------------------- as text


def test_docker_run_says_what_it_cannot_say() -> None:
    original = container(
        {"Env": ["A=of-the-image", "B=secret; rm -rf /"], "User": "1000", "Cmd": ["/app", "$HOME"]},
        {"SecurityOpt": ["seccomp={}", "no-new-privileges"], "KernelMemoryTCP": 5, "Binds": ["/a b:/c"]},
    )
    text = docker_run(original, IMAGE, ("seccomp", "cap:sys_ptrace"))
    assert "secret" not in text
    assert "# not said below: KernelMemoryTCP (docker inspect web)" in text
    for option in (
        "--env B",
        "--volume '/a b:/c'",
        "--cap-add SYS_PTRACE",
        "'$HOME'",
        "--entrypoint /tini",
        "--user 1000",
    ):
        assert option in text
    assert "--env A" not in text
    assert text.count("seccomp=") == 1


def test_a_patch_names_the_service() -> None:
    original = container({"Labels": {"com.docker.compose.service": "api"}})
    assert '"api":' in patch("compose", original, ("cap:sys_ptrace",))
    assert patch("kubernetes", original, ("thaw",)) == ""
