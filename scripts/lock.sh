#!/usr/bin/env bash
# Resolves requirements.lock from pyproject.toml, and scripts/sbom.lock for `make sbom`.
# Annotations stay out, so that the file holds names, versions and
# hashes, and neither a path nor a registry.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build
test -x build/uv/bin/uv || { python3 -m venv build/uv && build/uv/bin/pip install -qq 'uv>=0.13,<0.14'; }
build/uv/bin/uv pip compile --quiet pyproject.toml --group dev --python-version 3.11 --generate-hashes --upgrade \
    --no-header --no-annotate --output-file requirements.lock
build/uv/bin/uv pip compile --quiet - --python-version 3.11 --generate-hashes --upgrade \
    --no-header --no-annotate --output-file scripts/sbom.lock <<<'cyclonedx-bom>=7.5,<8'
