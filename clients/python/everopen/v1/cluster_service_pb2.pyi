from everopen.v1 import cluster_pb2 as _cluster_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetPartitionMapRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPartitionMapResponse(_message.Message):
    __slots__ = ("map",)
    MAP_FIELD_NUMBER: _ClassVar[int]
    map: _cluster_pb2.PartitionMap
    def __init__(self, map: _Optional[_Union[_cluster_pb2.PartitionMap, _Mapping]] = ...) -> None: ...

class WatchPartitionMapRequest(_message.Message):
    __slots__ = ("after_version",)
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    after_version: int
    def __init__(self, after_version: _Optional[int] = ...) -> None: ...

class WatchPartitionMapResponse(_message.Message):
    __slots__ = ("map",)
    MAP_FIELD_NUMBER: _ClassVar[int]
    map: _cluster_pb2.PartitionMap
    def __init__(self, map: _Optional[_Union[_cluster_pb2.PartitionMap, _Mapping]] = ...) -> None: ...

class GetWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkersResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInfo]
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerInfo, _Mapping]]] = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("worker", "pid", "state", "connections", "busy_per_mille", "commands_per_second", "restarts", "counters")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    BUSY_PER_MILLE_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    worker: int
    pid: int
    state: _cluster_pb2.WorkerState
    connections: int
    busy_per_mille: int
    commands_per_second: int
    restarts: int
    counters: _containers.ScalarMap[str, int]
    def __init__(self, worker: _Optional[int] = ..., pid: _Optional[int] = ..., state: _Optional[_Union[_cluster_pb2.WorkerState, str]] = ..., connections: _Optional[int] = ..., busy_per_mille: _Optional[int] = ..., commands_per_second: _Optional[int] = ..., restarts: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ...) -> None: ...
