"""The main rules of `buf lint`, for a machine that cannot have buf: usage lint_proto.py DESCRIPTOR_SET."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet


def upper_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def enums(holder: FileDescriptorProto | DescriptorProto) -> Iterator[EnumDescriptorProto]:
    yield from holder.enum_type
    for message in holder.message_type if isinstance(holder, FileDescriptorProto) else holder.nested_type:
        yield from enums(message)


def complaints_of_enum(enum: EnumDescriptorProto) -> Iterator[str]:
    prefix = upper_snake(enum.name) + "_"
    for value in enum.value:
        if not value.name.startswith(prefix):
            yield f"{enum.name}.{value.name} must start with {prefix}"
        if value.number == 0 and value.name != f"{prefix}UNSPECIFIED":
            yield f"{enum.name}: zero must be {prefix}UNSPECIFIED"


def complaints(file: FileDescriptorProto, uses: Counter[str]) -> Iterator[str]:
    folder = str(Path(file.name).parent).replace("/", ".")
    if folder != file.package:
        yield f"package {file.package} must stand in the folder {file.package.replace('.', '/')}"
    for enum in enums(file):
        yield from complaints_of_enum(enum)
    for service in file.service:
        if not service.name.endswith("Service"):
            yield f"{service.name} must end with Service"
        for method in service.method:
            for type_name, suffix in ((method.input_type, "Request"), (method.output_type, "Response")):
                name = type_name.rpartition(".")[2]
                if name not in (method.name + suffix, service.name + method.name + suffix):
                    yield f"{service.name}.{method.name} must use {method.name}{suffix}, not {name}"
                if uses[type_name] > 1:
                    yield f"{name} is shared by several methods"


def main(path: str) -> int:
    described = FileDescriptorSet.FromString(Path(path).read_bytes())
    own = [file for file in described.file if not file.name.startswith("google/")]
    methods = [method for file in own for service in file.service for method in service.method]
    uses = Counter(name for method in methods for name in (method.input_type, method.output_type))
    found = [f"{file.name}: {text}" for file in own for text in complaints(file, uses)]
    print("\n".join(found) or "proto: the main rules hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
