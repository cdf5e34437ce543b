#!/usr/bin/env bash
# Lints proto/ with buf where npm is to be had, and else by the main rules in Python. With a git revision as argument
# it also refuses what would break the clients of that revision.
#
# Both read the descriptor set that protoc makes: google/rpc comes from googleapis-common-protos then, and buf needs no
# module registry.
set -euo pipefail
cd "$(dirname "$0")/.."

buf=tools/node_modules/.bin/buf

describe() { # describe PROTO_FOLDER OUT
    local sources
    mapfile -t sources < <(cd "$1" && find . -name '*.proto' -printf '%P\n' | sort)
    ((${#sources[@]})) || { echo "no .proto files under $1: nothing to lint"; exit 0; }
    .venv/bin/python -m grpc_tools.protoc --proto_path="$1" --proto_path="$(rpc_folder)" \
        --include_imports --include_source_info --descriptor_set_out="$2" "${sources[@]}"
}
rpc_folder() {
    .venv/bin/python -c 'import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parent.parent)'
}

# buf is a binary inside its npm package, so no install script is needed. `npm ci` would refuse the lock, which leaves
# out the binaries of other platforms; `install --no-save` honours what the lock does hold.
install_buf() {
    command -v npm >/dev/null || return 1
    npm install --prefix tools --no-save --ignore-scripts --no-audit --no-fund --silent && "$buf" --version >/dev/null
}

mkdir -p build
describe proto build/proto.binpb
if [[ tools/node_modules/.package-lock.json -nt tools/package-lock.json ]] || install_buf; then
    "$buf" lint build/proto.binpb --config proto/buf.yaml
    echo "buf lint: clean"
    if (($#)); then
        rm -rf build/before && mkdir -p build/before
        git archive "$1" proto | tar -x -C build/before
        describe build/before/proto build/before.binpb
        "$buf" breaking build/proto.binpb --against build/before.binpb --config proto/buf.yaml
        echo "buf breaking: clean against $1"
    fi
else
    echo "NOTICE: npm or buf is not to be had here; only the main rules are checked, by scripts/lint_proto.py" >&2
    .venv/bin/python scripts/lint_proto.py build/proto.binpb
fi
