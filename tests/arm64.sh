#!/bin/sh
# Runs tests on ARM under emulation: tests/arm64.sh FOLDER [pytest's arguments]
#
# FOLDER keeps a Debian of this machine's release for arm64, with octavo's dependencies, for the next time
# (0.5 GB). Needs root, for chroot, on Debian, with these packages:
#   cmake ninja-build g++-aarch64-linux-gnu qemu-user-static binfmt-support debootstrap
set -eu
tree=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$tree/.venv/bin/python}
mkdir -p "$1"
root=$(cd "$1" && pwd)
shift
kernels="tests/runtime/test_native.py tests/runtime/test_native_linear.py tests/runtime/test_native_attention.py"
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $kernels -k "neon and not 128-300"

if [ ! -e "$root/ready" ]; then
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libpython3-dev "$release" "$root"
    # Unpacking is enough to run Python; the second stage would take minutes.
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    "$python" -m pip install -q --target "$root/host" nanobind
    "$python" - "$tree/pyproject.toml" > "$root/requirements.txt" <<'END'
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"], "pytest", "hypothesis", "httpx", sep="\n")
END
    platforms=$(for glibc in 17 26 27 28 31; do echo "--platform manylinux_2_${glibc}_aarch64"; done)
    # shellcheck disable=SC2086
    "$python" -m pip install -q --target "$root/site" --only-binary=:all: $platforms -r "$root/requirements.txt"
    touch "$root/ready"
fi

# The host's and the guest's Python are of one version: that of the release.
include=$(echo "$root"/usr/include/python3.*)
PYTHONPATH=$root/host cmake -G Ninja -S "$tree" -B "$root/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_CXX_FLAGS="-idirafter $root/usr/include" -DPython_EXECUTABLE="$python" -DPython_INCLUDE_DIR="$include"
ninja -C "$root/build"
rm -rf "$root/octavo"
mkdir "$root/octavo"
cp -r "$tree/octavo" "$tree/tests" "$tree/pyproject.toml" "$root/octavo"
rm -f "$root"/octavo/octavo/_native*.so
cp "$root"/build/_native*.so "$root/octavo/octavo/_native.so"

# Mounts of a name space of its own end with it.
cat > "$root/octavo/run" <<'END'
# A plain Armv8.2: with the SVE that qemu has by default, NumPy gives wrong sums now and then.
cd /octavo && export PYTHONPATH=/site:.:tests QEMU_CPU=${QEMU_CPU:-neoverse-n1} && exec python3 "$@"
END
guest() {
    unshare --mount sh -c 'root=$1; shift
        mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && exec chroot "$root" "$@"' \
        sh "$root" sh /octavo/run "$@"
}
guest -m pytest -p no:cacheprovider "$@"
echo "Digests of every kernel, here and there:"
(cd "$tree" && PYTHONPATH=. "$python" tests/support/tier_digests.py > "$root/digests.here")
guest tests/support/tier_digests.py > "$root/digests.there"
diff "$root/digests.here" "$root/digests.there" && echo "equal: $(wc -l < "$root/digests.here")"
