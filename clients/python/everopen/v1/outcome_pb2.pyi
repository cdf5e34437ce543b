from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_PLACED: _ClassVar[Outcome]
    OUTCOME_BACKORDERED: _ClassVar[Outcome]
    OUTCOME_APPLIED: _ClassVar[Outcome]
    OUTCOME_RETRY_TOO_OLD: _ClassVar[Outcome]
    OUTCOME_NOT_FOR_SALE: _ClassVar[Outcome]
    OUTCOME_PRICE_CHANGED: _ClassVar[Outcome]
    OUTCOME_BUYER_LIMIT: _ClassVar[Outcome]
    OUTCOME_INSUFFICIENT_STOCK: _ClassVar[Outcome]
    OUTCOME_ILLEGAL_STATE: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_PLACED: Outcome
OUTCOME_BACKORDERED: Outcome
OUTCOME_APPLIED: Outcome
OUTCOME_RETRY_TOO_OLD: Outcome
OUTCOME_NOT_FOR_SALE: Outcome
OUTCOME_PRICE_CHANGED: Outcome
OUTCOME_BUYER_LIMIT: Outcome
OUTCOME_INSUFFICIENT_STOCK: Outcome
OUTCOME_ILLEGAL_STATE: Outcome
