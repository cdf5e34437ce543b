from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShardState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHARD_STATE_UNSPECIFIED: _ClassVar[ShardState]
    SHARD_STATE_SERVING: _ClassVar[ShardState]
    SHARD_STATE_RECOVERING: _ClassVar[ShardState]
    SHARD_STATE_DOWN: _ClassVar[ShardState]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_SERVING: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_DOWN: _ClassVar[WorkerState]
SHARD_STATE_UNSPECIFIED: ShardState
SHARD_STATE_SERVING: ShardState
SHARD_STATE_RECOVERING: ShardState
SHARD_STATE_DOWN: ShardState
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_SERVING: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_DOWN: WorkerState

class PartitionMap(_message.Message):
    __slots__ = ("version", "partitions", "shards", "workers")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    version: int
    partitions: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardEntry]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerEntry]
    def __init__(self, version: _Optional[int] = ..., partitions: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardEntry, _Mapping]]] = ..., workers: _Optional[_Iterable[_Union[WorkerEntry, _Mapping]]] = ...) -> None: ...

class ShardEntry(_message.Message):
    __slots__ = ("shard", "first_partition", "last_partition", "worker", "log_id", "state")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    FIRST_PARTITION_FIELD_NUMBER: _ClassVar[int]
    LAST_PARTITION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    first_partition: int
    last_partition: int
    worker: int
    log_id: bytes
    state: ShardState
    def __init__(self, shard: _Optional[int] = ..., first_partition: _Optional[int] = ..., last_partition: _Optional[int] = ..., worker: _Optional[int] = ..., log_id: _Optional[bytes] = ..., state: _Optional[_Union[ShardState, str]] = ...) -> None: ...

class WorkerEntry(_message.Message):
    __slots__ = ("worker", "addresses", "state")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    worker: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    state: WorkerState
    def __init__(self, worker: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[WorkerState, str]] = ...) -> None: ...
