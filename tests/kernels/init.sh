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
# Which module needs which is not looked up: each is tried until no more can be had.
for _ in 1 2 3 4; do
    for module in /modules/"$(uname -r)"/*.ko; do
        insmod "$module" 2>/dev/null
    done
done
netem=''
ktls=''
[ -d /sys/module/sch_netem ] && netem=1
[ -d /sys/module/tls ] && ktls=1
echo "modules: $(lsmod | awk 'NR > 1 { printf "%s ", $1 }')"
CONNECTIONS=5000 NETEM=$netem RINGECHO_TESTS_NEED_KTLS=$ktls sh /trial/trial.sh /trial
poweroff -f
