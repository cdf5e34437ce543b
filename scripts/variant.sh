#!/usr/bin/env bash
# Tests another build of the core: usage variant.sh asan|debug|coverage [PYTEST ARGUMENT...], or variant.sh fuzz
#
# The variant is built in a copy of the tree under build/, so that it never replaces the core that `make build` made.
set -euo pipefail
cd "$(dirname "$0")/.."

variant=$1
shift
copy=build/variant-$variant
python=$PWD/.venv/bin/python

# The sources are laid anew, so that what was deleted here is gone there too; their times are kept and the built modules
# stay, so that only what changed is built again.
mkdir -p "$copy"
find "$copy" -path "$copy/build" -prune -o -type f ! -name '*.so' -exec rm {} +
git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory "$copy"
cd "$copy"

# The copy's own folders come before the editable install of the tree.
export PYTHONPATH=$PWD:$PWD/clients/python EVEROPEN_PROBES=1 EVEROPEN_VARIANT=$variant
case $variant in
asan)
    EVEROPEN_SANITIZE=1 "$python" setup.py --quiet build_ext --inplace
    # Python itself is not built with the sanitizers: their libraries come first by force, memory comes from malloc so
    # that every block is watched, and leaks are not looked for since Python keeps much until its end.
    export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
    export PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
    export EVEROPEN_STRESS_SESSIONS=${EVEROPEN_STRESS_SESSIONS:-800}
    # Suites that look through grpcio are left out: what it does with memory is not ours to watch. Those of the front
    # speak HTTP/2 by themselves; the server beside it, for comparison, is left out.
    suites=$(grep --recursive --files-with-matches "mark.native" tests --include="test_*.py" |
        grep --invert-match --extended-regexp "client|demo|readme|replay|test_(malformed|grpc_)")
    # shellcheck disable=SC2086
    "$python" -m pytest $suites tests/journal -p no:cacheprovider "$@"
    exec "$python" -m pytest tests/front/test_malformed.py tests/front/test_grpc_*.py -k "not reference" \
        -p no:cacheprovider "$@"
    ;;
debug)
    EVEROPEN_DEBUG=1 "$python" setup.py --quiet build_ext --inplace
    exec "$python" -m pytest tests --ignore=tests/test_tidy.py "$@"
    ;;
coverage)
    EVEROPEN_COVERAGE=1 "$python" setup.py --quiet build_ext --inplace
    "$python" -m coverage run -m pytest tests --ignore=tests/test_tidy.py "$@"
    "$python" -m coverage report --skip-covered --show-missing
    ;;
fuzz)
    scripts/system_packages.sh fuzz
    CC=clang LDSHARED="clang -shared" EVEROPEN_FUZZ=1 EVEROPEN_PROBES=0 "$python" setup.py --quiet build_ext --inplace
    # The program embeds Python and brings the runtimes of libFuzzer and the sanitizers for the modules.
    read -ra flags < <("$python" -c 'from sysconfig import get_config_var as of, get_path
folder = of("LIBDIR")
print("-I" + get_path("include"), "-L" + folder, "-Wl,-rpath," + folder, "-lpython" + of("LDVERSION"), "-ldl -lm")')
    clang -g -O1 -fsanitize=fuzzer,address,undefined -rdynamic tests/fuzz/native/host.c -o build/fuzz "${flags[@]}"
    export EVEROPEN_FUZZ_PYTHON=$python PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
    # Side by side, as many as there are cores. What was found stays there, and is where the next run begins.
    found=$OLDPWD/build/fuzz-corpus
    # In memory where there is such a folder: a file is written for each input. libFuzzer leaves without a good-bye.
    EVEROPEN_FUZZ_FOLDER=$(mktemp --directory --tmpdir="$(test -w /dev/shm && echo /dev/shm || echo /tmp)")
    trap 'rm -rf "$EVEROPEN_FUZZ_FOLDER"' EXIT
    export EVEROPEN_FUZZ_FOLDER
    feed() {
        mkdir -p "$found/$1"
        EVEROPEN_FUZZ_TARGET=$1 build/fuzz -max_total_time="$EVEROPEN_FUZZ_SECONDS" -max_len=16384 -timeout=30 \
            -detect_leaks=0 -print_final_stats=1 -artifact_prefix="$found/$1-" "$found/$1" "tests/fuzz/corpus/$1" \
            >"$found/$1.log" 2>&1 && grep -E "INITED|DONE" "$found/$1.log" | sed "s/^/$1 /" && return
        tail -n 60 "$found/$1.log"
        return 1
    }
    export -f feed
    export found
    printf '%s\n' wire front journal snapshot | xargs -P "$(nproc)" -I TARGET bash -c 'feed TARGET'
    ;;
*)
    echo "variant.sh knows asan, debug, coverage and fuzz, not $variant" >&2
    exit 2
    ;;
esac
