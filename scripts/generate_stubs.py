"""Writes the Python stubs of proto/ under the folder given: usage generate_stubs.py OUT.

google/rpc/*.proto come from the package googleapis-common-protos, google/protobuf/*.proto from grpcio-tools.
"""

import sys
from importlib.resources import files
from pathlib import Path

import google.rpc
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent.parent / "proto"


def generate(out: Path) -> None:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    if not sources:
        return
    includes = [PROTO, Path(next(iter(google.rpc.__path__))).parent.parent, files("grpc_tools") / "_proto"]
    status = protoc.main(
        [
            "protoc",
            *(f"--proto_path={path}" for path in includes),
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *sources,
        ]
    )
    if status:
        sys.exit(status)
    for source in sources:
        folder = out / Path(source).parent
        (folder / "__init__.py").touch()


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
