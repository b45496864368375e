#!/bin/busybox sh
# The first process in the emulator: makes a system of a bare kernel, tries ringecho on it, and
# switches off. See scripts/kernels.sh.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
# As on a machine with systemd; a bare kernel allows 4,096.
ulimit -n 524288
# The network of this system is its own, so the trial may spoil it.
netem=
insmod "/modules/$(uname -r).ko" && netem=1
CONNECTIONS=5000 NETEM=$netem sh /trial/trial.sh /trial
poweroff -f
