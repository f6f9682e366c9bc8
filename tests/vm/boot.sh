#!/bin/sh
# What runs in the virtual machine instead of an init system: file systems, Docker, then the program that was brought.
#
# The second drive is a tar of inputs, unpacked as /in; its file "run" is the program. Its output goes to the ports
# stdout and stderr, its exit code to the port "code"; then the machine is switched off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /in
mount -t devpts devpts /dev/pts
for directory in /dev/shm /tmp /run; do mount -t tmpfs tmpfs $directory; done
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 -o nsdelegate cgroup /sys/fs/cgroup
ip link set lo up
modprobe overlay
for port in /sys/class/virtio-ports/*; do
    mkdir -p /dev/virtio-ports
    ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
tar -x -f /dev/vdb -C /in

# containerd first: a dockerd that starts its own loses seconds. No network: nothing here needs one.
containerd >/run/containerd.log 2>&1 &
dockerd --containerd=/run/containerd/containerd.sock --bridge=none --iptables=false >/run/dockerd.log 2>&1 &
until grep -q 'API listen on' /run/dockerd.log; do
    kill -0 $! 2>/dev/null || { cat /run/dockerd.log; break; }
    sleep 0.1
done

cd /in && ./run </dev/null >/dev/virtio-ports/stdout 2>/dev/virtio-ports/stderr
echo $? >/dev/virtio-ports/code
echo o >/proc/sysrq-trigger
sleep 60
