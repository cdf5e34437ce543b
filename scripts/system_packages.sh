#!/usr/bin/env bash
# Makes sure that the few Debian packages which pip cannot bring are here. Looks first, so that a machine that has them
# is left alone and needs no root.
set -euo pipefail

missing=()
wished=()
need() { # need PACKAGES COMMAND...: the packages are missing when the command fails
    local packages=$1
    shift
    "$@" >/dev/null 2>&1 || read -ra missing <<<"${missing[*]-} $packages"
}
wish() { # as need, but nothing fails without them
    local packages=$1
    shift
    "$@" >/dev/null 2>&1 || read -ra wished <<<"${wished[*]-} $packages"
}
leave() { # leave MESSAGE: packages cannot be installed here
    ((${#missing[@]})) || exit 0
    echo "$1" >&2
    exit 1
}

python_header() { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; }
c_header() { echo "#include <$1>" | cc -E -x c - ; }

need "gcc libc6-dev" command -v cc
need "python3" command -v python3
need "python3-venv" python3 -c 'import ensurepip, venv'
need "python3-dev" python_header
need "libxxhash-dev" c_header xxhash.h
need "pkg-config" command -v pkg-config
need "libnghttp2-dev" c_header nghttp2/nghttp2.h
need "zlib1g-dev" c_header zlib.h
need "libssl-dev" c_header openssl/ssl.h
need "openssl" command -v openssl

# Only what is built for libFuzzer needs these.
if [[ ${1-} == fuzz ]]; then
    runtime=$(clang -print-resource-dir 2>/dev/null || :)/lib/linux/libclang_rt.fuzzer-$(uname -m).a
    need "clang libclang-rt-dev" test -e "$runtime"
fi

# Tests that need these are skipped, and say so, where they cannot be had.
wish "fuse3" command -v fusermount3
wish "libfaketime" compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'

packages="${missing[*]-} ${wished[*]-}"
[[ $packages != " " ]] || exit 0

install="apt-get install --yes --no-install-recommends"
command -v apt-get >/dev/null ||
    leave "everopen needs what Debian calls: ${missing[*]-}. Install it by your system's means, then make again."
as_root=()
if [[ $(id -u) != 0 ]]; then
    as_root=(sudo --non-interactive)
    "${as_root[@]}" true 2>/dev/null ||
        leave "everopen needs packages of the system. Run this, then make again: sudo $install ${missing[*]-}"
fi
echo "installing" $packages
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the words of the command are meant to split
"${as_root[@]}" apt-get update -qq && "${as_root[@]}" $install -qq $packages ||
    leave "everopen needs packages that could not be installed: ${missing[*]-}"
