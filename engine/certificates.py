"""Whose a client's certificate is, and until when one holds.

That the CA has signed it, and that its owner has its key, the front has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from engine.grants import is_name
from engine.limits import CALLER_NAME_BYTES_MAX


@dataclass(frozen=True)
class Subject:
    name: str
    expires_unix_ms: int


def subject_of(der: bytes) -> Subject | None:
    """The first URI of the alternative names, else the first DNS name, else the common name. None: it has no name."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _names(certificate)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    if not names or not is_name(names[0], CALLER_NAME_BYTES_MAX - len("certificate:")):
        return None
    return Subject(names[0], int(certificate.not_valid_after_utc.timestamp()) * 1_000)


def expiry_of(pem: bytes) -> int:
    """Of the first certificate, in seconds since 1970. 0: not known."""
    try:
        return max(0, int(x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()))
    except Exception:
        # What OpenSSL takes is served, also if another library makes nothing of it.
        return 0


def _names(certificate: x509.Certificate) -> list[str]:
    names: list[str] = []
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += alternative.get_values_for_type(x509.UniformResourceIdentifier)
        names += alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        pass
    return names + [
        str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
