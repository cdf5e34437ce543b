"""Writes a software bill of materials as CycloneDX JSON: usage sbom.py PYTHON OUTPUT.

Run by a Python that has cyclonedx-bom (docs/adr/0014). The packages are those of PYTHON's environment; to them come
the system's libraries that the native modules were linked with, or whose headers they contain.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parent.parent
# Only headers of them are compiled in, so no module names them: header, and what pkg-config calls the library.
HEADERS = {"xxhash.h": "libxxhash"}

Component = dict[str, object]


def output(*command: str | Path) -> str:
    """Nothing where the program is not there, or refuses."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def component(name: str, file: Path | None) -> Component:
    """A library by its name; where Debian's package manager knows the file, with package and version."""
    found: Component = {"type": "library", "name": name, "bom-ref": f"system:{name}"}
    if file is None:
        return found
    # Where /lib is a link, the manager knows one of the two names.
    for path in (file, file.resolve(), Path("/usr") / str(file).lstrip("/"), Path(str(file).removeprefix("/usr"))):
        owner = output("dpkg-query", "--search", path).partition(": ")[0].split(",")[0]
        if owner:
            version = output("dpkg-query", "--show", "--showformat=${Version}", owner).strip()
            package = owner.partition(":")[0]
            purl = f"pkg:deb/debian/{package}@{version.replace('+', '%2B').replace(':', '%3A')}"
            return {**found, "version": version, "purl": purl, "description": f"Debian package {package}"}
    return found


def linked() -> list[Component]:
    """What the loader finds for the native modules, but for what every C program has."""
    found: dict[str, Component] = {}
    for module in sorted(ROOT.glob("engine/*.so")):
        wanted = set(re.findall(r"NEEDED.*\[(.+)\]", output("readelf", "--dynamic", module)))
        for name, path in re.findall(r"^\s*(\S+) => (\S+)", output("ldd", module), re.MULTILINE):
            if name in wanted:
                found[name] = component(name, Path(path))
    if not found:
        raise SystemExit("sbom: no native module here; make build comes first")
    return list(found.values())


def compiled_in() -> list[Component]:
    found = []
    for header, library in HEADERS.items():
        named = component(library, Path("/usr/include") / header)
        version = output("pkg-config", "--modversion", library).strip()
        found.append(named if "version" in named or not version else {**named, "version": version})
    return found


def main(python: str, target: Path) -> None:
    command = [Path(sys.executable).with_name("cyclonedx-py"), "environment", "--pyproject", ROOT / "pyproject.toml"]
    command += ["--output-reproducible", "--spec-version", "1.6", python]
    bill = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    system = sorted([*linked(), *compiled_in()], key=lambda one: str(one["name"]))
    bill["components"] += system
    root = bill["metadata"]["component"]["bom-ref"]
    refs = [one["bom-ref"] for one in system]
    for dependency in bill["dependencies"]:
        if dependency["ref"] == root:
            dependency["dependsOn"] = sorted({*dependency.get("dependsOn", []), *refs})
    bill["dependencies"] += [{"ref": ref} for ref in refs]
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    broken = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if broken is not None:
        raise SystemExit(f"sbom: not valid CycloneDX 1.6: {broken}")
    target.write_text(text)
    print(f"{len(bill['components'])} components, {len(system)} of them of the system, in {target}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
