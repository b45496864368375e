#!/usr/bin/env bash
# Prints the settings of this machine that matter to ringecho, what to think of each, and the
# commands that change those that should be changed. Changes nothing, and needs no privileges.
#
#   scripts/check-host.sh             all settings; exit code 0
#   scripts/check-host.sh --strict    exit code 1 if something should be changed
#
#   ok       as it should be
#   change   costs speed or connections; its command is repeated at the end
#   note     a matter of taste, or of what is to be measured
#   hidden   not to be seen from here, as in many containers and virtual machines
#
# Environment: HOST_ROOT (none), the directory that holds the /proc and /sys to look at.
set -euo pipefail

readonly ROOT=${HOST_ROOT:-}
readonly CPU=$ROOT/sys/devices/system/cpu
# What ringecho and its load generator want.
readonly CONNECTIONS_WANTED=20000 BACKLOG_WANTED=4096 SOCKET_BUFFER_WANTED=4194304

commands=()

# say VERDICT SETTING VALUE [REMARK]
say() {
    printf '%-7s %-32s %s%s\n' "$1" "$2" "${3:-none}" "${4:+: $4}"
}

ok() { say ok "$@"; }
note() { say note "$@"; }
hidden() { say hidden "$1" '-'; }

# change SETTING VALUE REMARK COMMAND
change() {
    say change "$1" "$2" "$3"
    commands+=("$4")
}

# The words of a file below ROOT, on one line; fails where it is not to be read.
setting() {
    local words
    [[ -r $ROOT$1 ]] && words=$(tr -s '[:space:]' ' ' <"$ROOT$1" 2>/dev/null) || return 1
    words=${words# }
    echo "${words% }"
}

# sysctl_setting NAME: its value; fails where it is not to be read.
sysctl_setting() {
    setting "/proc/sys/${1//.//}"
}

# want_at_least SYSCTL NUMBER REMARK
want_at_least() {
    local value
    if ! value=$(sysctl_setting "$1"); then
        hidden "$1"
    elif ((value >= $2)); then
        ok "$1" "$value"
    else
        change "$1" "$value" "$3" "sudo sysctl -w $1=$2"
    fi
}

# The bracketed word of a choice such as "always [madvise] never".
chosen() {
    local rest=${1#*[}
    echo "${rest%%]*}"
}

check_kernel() {
    local release major minor version
    if ! release=$(sysctl_setting kernel.osrelease); then
        hidden kernel
        return
    fi
    IFS=.- read -r major minor _ <<<"$release"
    version=$((major * 1000 + minor))
    if ((version >= 6017)); then
        ok kernel "$release" 'all that the engine can use'
    elif ((version >= 6012)); then
        ok kernel "$release" 'the engine runs on io_uring; from 6.17 on receives are shared out evenly'
    else
        note kernel "$release" 'the engine runs on epoll; from Linux 6.12 it runs on io_uring'
    fi
}

check_io_uring() {
    local disabled
    # Linux has it since 6.6.
    if ! disabled=$(sysctl_setting kernel.io_uring_disabled); then
        hidden kernel.io_uring_disabled
    elif ((disabled == 0)); then
        ok kernel.io_uring_disabled 0
    else
        note kernel.io_uring_disabled "$disabled" 'the engine runs on epoll'
    fi
    if grep -q '^Seccomp:[[:space:]]*2' "$ROOT/proc/self/status" 2>/dev/null; then
        note seccomp filtered 'if it forbids io_uring_*, the engine runs on epoll'
    fi
}

check_descriptors() {
    local hard
    hard=$(awk '/^Max open files/ { print $5 }' "$ROOT/proc/self/limits" 2>/dev/null) || true
    if [[ -z $hard ]]; then
        hidden 'ulimit -Hn'
    elif [[ $hard == unlimited ]] || ((hard >= CONNECTIONS_WANTED)); then
        ok 'ulimit -Hn' "$hard" 'ringecho raises its own limit to this'
    else
        change 'ulimit -Hn' "$hard" 'each connection takes a descriptor' \
            "sudo prlimit --pid \$\$ --nofile=$CONNECTIONS_WANTED:$CONNECTIONS_WANTED"
    fi
    want_at_least fs.nr_open "$CONNECTIONS_WANTED" 'the most that ulimit -n can be'
}

check_queues() {
    local low high
    want_at_least net.core.somaxconn "$BACKLOG_WANTED" 'caps --backlog'
    if [[ $(sysctl_setting net.ipv4.tcp_syncookies || true) == [12] ]]; then
        ok net.ipv4.tcp_syncookies on 'half-open connections need no queue'
    else
        want_at_least net.ipv4.tcp_max_syn_backlog "$BACKLOG_WANTED" 'half-open connections'
    fi
    if ! read -r low high < <(sysctl_setting net.ipv4.ip_local_port_range); then
        hidden net.ipv4.ip_local_port_range
    elif ((high - low >= CONNECTIONS_WANTED)); then
        ok net.ipv4.ip_local_port_range "$low $high"
    else
        change net.ipv4.ip_local_port_range "$low $high" \
            'so many connections can a generator open to one address' \
            'sudo sysctl -w net.ipv4.ip_local_port_range="1024 65535"'
    fi
}

check_tcp() {
    local congestion which least default most value
    congestion=$(sysctl_setting net.ipv4.tcp_congestion_control || true)
    case $congestion in
        '') hidden net.ipv4.tcp_congestion_control ;;
        bbr*) note net.ipv4.tcp_congestion_control "$congestion" \
            'paces what is sent; on loopback and in a data centre try --tcp-congestion reno' ;;
        *) ok net.ipv4.tcp_congestion_control "$congestion" ;;
    esac
    for which in net.ipv4.tcp_rmem net.ipv4.tcp_wmem; do
        if ! read -r least default most < <(sysctl_setting "$which"); then
            hidden "$which"
        elif ((most >= SOCKET_BUFFER_WANTED)); then
            ok "$which" "$least $default $most"
        else
            change "$which" "$least $default $most" 'large messages wait for the peer' \
                "sudo sysctl -w $which=\"$least $default $SOCKET_BUFFER_WANTED\""
        fi
    done
    for which in net.core.busy_read net.core.busy_poll; do
        if ! value=$(sysctl_setting "$which"); then
            hidden "$which"
        elif ((value == 0)); then
            ok "$which" 0
        else
            note "$which" "$value" 'sockets poll the network card, which takes CPU time'
        fi
    done
}

check_frequency() {
    local governors turbo
    governors=$(cat "$CPU"/cpu*/cpufreq/scaling_governor 2>/dev/null | sort -u | tr '\n' ' ') || true
    case $governors in
        '') hidden 'CPU governor' ;;
        'performance ') ok 'CPU governor' performance ;;
        *) change 'CPU governor' "${governors% }" 'CPUs slow down between bursts' \
            'sudo cpupower frequency-set --governor performance' ;;
    esac
    if turbo=$(setting /sys/devices/system/cpu/intel_pstate/no_turbo); then
        turbo=$((1 - turbo))
    else
        turbo=$(setting /sys/devices/system/cpu/cpufreq/boost || true)
    fi
    case $turbo in
        '') hidden turbo ;;
        0) ok turbo off ;;
        *) note turbo on 'faster, but figures drift with the temperature' ;;
    esac
}

check_cpus() {
    local active siblings isolated online allowed
    if ! active=$(setting /sys/devices/system/cpu/smt/active); then
        hidden SMT
    elif ((active == 0)); then
        ok SMT off
    else
        siblings=$(cat "$CPU"/cpu*/topology/thread_siblings_list 2>/dev/null | sort -uV | tr '\n' ' ') || true
        note SMT "${siblings% }" 'CPUs of one core; do not share them between server and generator'
    fi
    if isolated=$(setting /sys/devices/system/cpu/isolated); then
        note 'isolated CPUs' "$isolated" 'the kernel parameter isolcpus keeps other programs away'
    else
        hidden 'isolated CPUs'
    fi
    online=$(setting /sys/devices/system/cpu/online || true)
    allowed=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$ROOT/proc/self/status" 2>/dev/null) || true
    if [[ -z $allowed ]]; then
        hidden cpuset
    elif [[ $allowed == "$online" ]]; then
        ok cpuset "$allowed"
    else
        note cpuset "$allowed" "of $online; ringecho has as many workers"
    fi
}

# The CPU quota of this process's control group, or of the first above it that has one; fails where
# none is to be read.
cgroup_quota() {
    local path quota found=''
    path=$(sed -n 's/^0:://p' "$ROOT/proc/self/cgroup" 2>/dev/null) || true
    path=${path%/}
    while true; do
        if quota=$(setting "/sys/fs/cgroup$path/cpu.max"); then
            found=$quota
            [[ $quota == max* ]] || break
        fi
        [[ -n $path ]] || break
        path=${path%/*}
    done
    if [[ -z $found ]] && found=$(setting /sys/fs/cgroup/cpu/cpu.cfs_quota_us); then
        found=${found/#-1/max}
    fi
    [[ -n $found ]] && echo "$found"
}

check_sharing() {
    local quota virtual programs nodes
    if ! quota=$(cgroup_quota); then
        hidden 'cgroup CPU quota'
    elif [[ $quota == max* ]]; then
        ok 'cgroup CPU quota' none
    else
        change 'cgroup CPU quota' "$quota" 'workers are stopped when it is used up' \
            'start the container without a CPU limit (docker: no --cpus; systemd: no CPUQuota=)'
    fi
    if [[ ! -r $ROOT/proc/cpuinfo ]]; then
        hidden 'virtual machine'
    elif grep -qw hypervisor "$ROOT/proc/cpuinfo"; then
        virtual=$(systemd-detect-virt --vm 2>/dev/null) || virtual=yes
        note 'virtual machine' "$virtual" 'neighbours make figures drift; compare in turns'
    else
        ok 'virtual machine' no
    fi
    # Some may end before they are read.
    programs=$(cat "$ROOT"/proc/[0-9]*/comm 2>/dev/null) || true
    if [[ -z $programs ]]; then
        hidden irqbalance
    elif grep -qx irqbalance <<<"$programs"; then
        note irqbalance running \
            'moves interrupts between CPUs; for measurements: sudo systemctl stop irqbalance'
    else
        ok irqbalance 'not running'
    fi
    nodes=$(setting /sys/devices/system/node/online || true)
    case $nodes in
        '') hidden 'NUMA nodes' ;;
        0) ok 'NUMA nodes' 0 ;;
        *) note 'NUMA nodes' "$nodes" \
            'keep server and network card on one: numactl --cpunodebind=0 --membind=0' ;;
    esac
}

check_memory() {
    local pages swaps
    if pages=$(setting /sys/kernel/mm/transparent_hugepage/enabled); then
        pages=$(chosen "$pages")
        case $pages in
            never) note 'transparent huge pages' never 'no --huge-pages transparent' ;;
            always) note 'transparent huge pages' always 'memory grows in steps of 2 MiB' ;;
            *) ok 'transparent huge pages' "$pages" ;;
        esac
    else
        hidden 'transparent huge pages'
    fi
    if pages=$(sysctl_setting vm.nr_hugepages); then
        note vm.nr_hugepages "$pages" '--huge-pages explicit takes 1 for each worker, with the default buffers'
    else
        hidden vm.nr_hugepages
    fi
    if ! swaps=$(tail -n +2 "$ROOT/proc/swaps" 2>/dev/null); then
        hidden swap
    elif [[ -z $swaps ]]; then
        ok swap off
    else
        note swap on 'buffers that are swapped out stall a worker: sudo swapoff --all'
    fi
}

check_mitigations() {
    local files mitigated
    files=("$CPU"/vulnerabilities/*)
    if [[ ! -r ${files[0]} ]]; then
        hidden mitigations
    elif ! mitigated=$(grep -l '^Mitigation' "${files[@]}"); then
        ok mitigations 'none active'
    else
        mitigated=${mitigated//"$CPU/vulnerabilities/"/}
        note mitigations "${mitigated//$'\n'/ }" \
            'system calls cost more; where all code is trusted: kernel parameter mitigations=off'
    fi
}

strict=false
case ${1:-} in
    '') ;;
    --strict) strict=true ;;
    *)
        sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' "$0"
        [[ $1 == --help ]] && exit 0
        exit 2
        ;;
esac

check_kernel
check_io_uring
check_descriptors
check_queues
check_tcp
check_frequency
check_cpus
check_sharing
check_memory
check_mitigations

echo
if ((${#commands[@]} == 0)); then
    echo 'Nothing needs to be changed.'
    exit 0
fi
echo 'To be changed:'
printf '  %s\n' "${commands[@]}"
if "$strict"; then
    exit 1
fi
