#!/usr/bin/env bash
# Tries ringecho on other kernels: boots Debian's in an emulator and runs there the tests that are
# bounded in work, and on each data plane and driver a load test and a wake-up test, and a load test over
# a network that delays, loses and duplicates (netem). Those kernels speak TLS on sockets (kTLS), which
# the tests need there. This machine's own kernel runs the same list but for the network, which is others'
# too, and for kTLS where it has none. What is tried is in tests/kernels/trial.sh.
#
#   scripts/kernels.sh               the newest 6.1, the newest 6.12, 6.12.113, and this machine's
#   scripts/kernels.sh PACKAGE...    these packages of Debian's alone
#
# Prints every check, and at the end what the server says on each kernel, as the table in
# docs/use.md. Installs what it needs if it may. Where the emulator or a kernel cannot be had it
# says so in one line, and tries the others. Kernels are kept below .tools/.
#
# Environment: LOGS (none), a folder that keeps what each kernel said.
#              TESTS (engine suite program), the binaries whose tests are run.
# Exit code:   0 if every check passed on every kernel that was tried.
set -euo pipefail

cd "$(dirname "$0")/.."

readonly CACHE=$PWD/.tools/kernels BIN=${CARGO_TARGET_DIR:-$PWD/target}
# The last 6.12 of Debian's that signals the eventfd registered with a ring that defers its task work.
readonly SIGNALS_EVENTFDS=linux-image-6.12.113+deb12-cloud-amd64
# Modules of a kernel that a trial needs: a bad network, TLS on sockets, and its ciphers, which differ from
# kernel to kernel.
readonly MODULES=(sch_netem tls gcm ctr crypto_null ghash-generic gf128mul aesni-intel crypto_simd cryptd
    chacha20poly1305 chacha_generic libchacha poly1305_generic libpoly1305)
# What a kernel says of its trial becomes $work_dir/KERNEL.log: a package's name, or this machine's.
readonly HERE=here
# A trial takes a fraction of it, unless the machine has other things to do.
readonly TRIAL_WITHIN_SECONDS=1200
# Kernels share CPUs well: much of a trial is waiting.
readonly TRIALS_AT_ONCE=2

work_dir=$(mktemp -d)
trials=()

clean_up() {
    local trial
    for trial in "${trials[@]}"; do
        kill "$trial" 2>/dev/null || true
    done
    wait
    rm -rf "$work_dir"
}

# Installs the emulator and what makes an initramfs, if it is not there and may be installed.
have_emulator() {
    local packages=(qemu-system-x86 busybox-static cpio iproute2 xz-utils)
    if ! are_tools_there && ((EUID == 0)) && command -v apt-get >/dev/null; then
        {
            apt-get update --quiet=2 || true
            apt-get install --quiet=2 --yes --no-install-recommends "${packages[@]}" || true
        } >"$work_dir/apt" 2>&1
    fi
    are_tools_there || {
        echo "no other kernels: ${packages[*]} are not installed, and cannot be"
        return 1
    }
}

are_tools_there() {
    command -v qemu-system-x86_64 >/dev/null && command -v cpio >/dev/null &&
        command -v tc >/dev/null && command -v xz >/dev/null && command -v apt-get >/dev/null && [[ -x /bin/busybox ]] && ! ldd /bin/busybox >/dev/null 2>&1
}

# The newest package of a series such as 6.12.
newest() {
    apt-cache search "^linux-image-${1//./\\.}\\..*-cloud-amd64\$" | awk '{ print $1 }' |
        sort --version-sort | tail -n 1
}

# The packages to try by default.
default_packages() {
    local series package
    command -v apt-cache >/dev/null || return
    [[ -n $(newest 6.1) ]] || ((EUID != 0)) || apt-get update --quiet=2 >&2 || true
    for series in 6.1 6.12; do
        package=$(newest "$series")
        echo "${package:-linux-image-$series-cloud-amd64}"
    done
    echo "$SIGNALS_EVENTFDS"
}

# Unpacks the kernel of a package, and the modules that a trial needs, below the cache; fails where they
# are not to be had.
fetch_kernel() {
    local unpacked=$CACHE/$1 name module
    compgen -G "$unpacked/boot/vmlinuz-*" >/dev/null && [[ -e $unpacked/modules/tls.ko ]] && return
    rm -rf "$work_dir/package" && mkdir "$work_dir/package"
    (cd "$work_dir/package" && apt-get download --quiet=2 "$1" && dpkg --extract ./*.deb .) \
        >"$work_dir/apt" 2>&1 || return
    rm -rf "$unpacked" && mkdir -p "$unpacked/modules"
    mv "$work_dir/package/boot" "$unpacked/"
    for name in "${MODULES[@]}"; do
        module=$(find "$work_dir/package" -name "$name.ko*" -print -quit)
        case $module in
        '') ;;
        *.xz) xz --decompress --stdout "$module" >"$unpacked/modules/$name.ko" ;;
        *) cp "$module" "$unpacked/modules/$name.ko" ;;
        esac
    done
}

# Makes $work_dir/root/trial of both programs and the tests' binaries, and puts the programs where
# these look for them.
build() {
    local root=$work_dir/root trial=$work_dir/root/trial kind name executable
    mkdir -p "$trial/bin" "$trial/tests"
    cargo build --release --locked --bins
    cargo test --no-run --locked --message-format=json >"$work_dir/artifacts"
    for name in ringecho ringecho-loadtest; do
        cp "$BIN/release/$name" "$trial/bin/"
    done
    while read -r kind name executable; do
        if [[ $kind == test ]]; then
            strip -o "$trial/tests/$name" "$executable"
        else
            install -D "$executable" "$root$executable"
            strip "$root$executable"
        fi
    done < <(artifacts)
    cp tests/kernels/trial.sh tests/kernels/exclusions.txt "$trial/"
}

# The programs and the tests that cargo has built, each as `program` or `test`, its name and its path.
artifacts() {
    python3 - "$work_dir/artifacts" "${TESTS:-engine suite program}" <<'EOF'
import json, sys

TESTS = sys.argv[2].split()

for line in open(sys.argv[1]):
    message = json.loads(line)
    if not message.get("executable"):
        continue
    name, is_test = message["target"]["name"], message["profile"]["test"]
    if not is_test:
        print("program", name, message["executable"])
    elif name in TESTS:
        print("test", name, message["executable"])
EOF
}

# Makes the initramfs of what was built, for all kernels that are to be booted.
pack() {
    local root=$work_dir/root library kernel image
    mkdir -p "$root"/{bin,dev,etc,lib64,modules,proc,sys,tmp}
    cp /bin/busybox "$root/bin/"
    cp "$(command -v tc)" "$root/trial/bin/"
    for kernel in "${kernels[@]}"; do
        image=$(compgen -G "$CACHE/$kernel/boot/vmlinuz-*")
        cp -r "$CACHE/$kernel/modules" "$root/modules/${image#*/vmlinuz-}"
    done
    cp tests/kernels/init.sh "$root/init"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
    while read -r library; do
        install -D "$library" "$root$library"
    done < <(ldd "$root"/trial/{bin,tests}/* | grep -o '/[^ ]*\.so[^ ]*' | sort --unique)
    (cd "$root" && find . | cpio --create --format=newc --quiet | gzip -1) >"$work_dir/initrd"
}

# Begins to try this machine's kernel, beside which others boot.
try_here() {
    timeout "$TRIAL_WITHIN_SECONDS" sh "$work_dir/root/trial/trial.sh" "$work_dir/root/trial" \
        </dev/null >"$work_dir/$HERE.log" 2>&1 &
    trials+=("$!")
}

# Boots the kernels of these packages, so many trials at once, and waits for all.
boot() {
    local package
    for package; do
        while (($(jobs -rp | wc -l) >= TRIALS_AT_ONCE)); do
            wait -n || true
        done
        timeout "$TRIAL_WITHIN_SECONDS" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 \
            -m 1024 -display none -serial stdio -no-reboot -nic none \
            -kernel "$CACHE/$package"/boot/vmlinuz-* -initrd "$work_dir/initrd" -append 'console=ttyS0 quiet panic=-1' \
            </dev/null >"$work_dir/$package.log" 2>&1 &
        trials+=("$!")
    done
    wait
}

# Prints what was said on a kernel, and remembers what is not as it should be.
judge() {
    local log=$work_dir/$1.log line
    printf -- '\n-- %s\n' "$1"
    sed --in-place 's/\r//g' "$log"
    grep -av '^start|' "$log" || true
    if ! grep -aq '^done: ' "$log"; then
        failures+=("$1: the trial did not come to its end, or not in $TRIAL_WITHIN_SECONDS s")
    fi
    while read -r line; do
        failures+=("$1: $line")
    done < <(grep -a '^FAILED ' "$log")
}

print_table() {
    printf '\n| kernel | flags | the ready line names | the log says |\n| --- | --- | --- | --- |\n'
    cat "$work_dir"/*.log | sed -n 's/^start|\([^|]*\)|\([^|]*\)|\([^|]*\)|\(.*\)/| \1 | \2 | \3 | \4 |/p'
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

failures=() kernels=() packages=("$@")
(($# > 0)) || mapfile -t packages < <(default_packages)
build
if have_emulator; then
    for package in "${packages[@]}"; do
        if fetch_kernel "$package"; then
            kernels+=("$package")
        else
            echo "$package cannot be had: $(tail -n 1 "$work_dir/apt")"
        fi
    done
    pack
fi
(($# > 0)) || try_here
boot "${kernels[@]}"
(($# > 0)) || kernels=("$HERE" "${kernels[@]}")
for kernel in "${kernels[@]}"; do
    judge "$kernel"
done
print_table
if [[ -n ${LOGS:-} ]]; then
    mkdir -p "$LOGS"
    cp "$work_dir"/*.log "$LOGS"
fi
echo
if ((${#failures[@]} > 0)); then
    printf '%s\n' "${failures[@]}"
    exit 1
fi
echo 'every check passed on every kernel'
