"""Certificates for tests, made by the openssl program: an authority, and what it vouches for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

CONFIGURATION = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = unnamed\n"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


class Files(NamedTuple):
    """A certificate and its key."""

    certificate: Path
    key: Path

    @property
    def pair(self) -> tuple[str, str]:
        return str(self.certificate), str(self.key)

    def put_at(self, other: Files) -> None:
        """In the place of the others, one after the other, as a renewal does it."""
        for source, target in zip(self, other, strict=True):
            fresh = target.with_suffix(".new")
            fresh.write_bytes(source.read_bytes())
            fresh.chmod(0o600)
            fresh.replace(target)


class Authority:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._configuration = folder / "openssl.cnf"
        self._configuration.write_text(CONFIGURATION)
        self.files = self._make(name, "basicConstraints=critical,CA:TRUE")
        self.certificate = self.files.certificate

    def issue(self, name: str, alternative: str = "DNS:localhost,IP:127.0.0.1") -> Files:
        """Of a server or a client called `name`; each call makes another one."""
        certificate, key = self.files.pair
        return self._make(name, f"subjectAltName={alternative}", "-CA", certificate, "-CAkey", key)

    def _make(self, name: str, extension: str, *arguments: str) -> Files:
        number = len(list(self._folder.glob("*.key")))
        made = Files(self._folder / f"{name}-{number}.pem", self._folder / f"{name}-{number}.key")
        command = ["openssl", "req", "-x509", "-config", str(self._configuration), *NEW_KEY, "-days", "2"]
        command += ["-subj", f"/CN={name}", "-addext", extension, *arguments]
        command += ["-keyout", str(made.key), "-out", str(made.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        made.key.chmod(0o600)
        return made
