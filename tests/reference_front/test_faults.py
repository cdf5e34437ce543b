"""How a google.rpc.Status leaves."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

from tests.reference_front.faults import refusal


def test_exhausted_status_carries_a_pushback() -> None:
    status = status_pb2.Status(code=8)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(2_500)
    status.details.add().Pack(retry)
    answer = refusal(status.SerializeToString())
    assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(answer.trailing)["grpc-retry-pushback-ms"] == "2500"
    without = refusal(status_pb2.Status(code=8).SerializeToString())
    assert dict(without.trailing)["grpc-retry-pushback-ms"] == "100"


def test_other_status_carries_its_bytes_and_no_pushback() -> None:
    status = status_pb2.Status(code=5, message="no such order").SerializeToString()
    answer = refusal(status)
    assert answer.code == grpc.StatusCode.NOT_FOUND
    assert answer.message == "no such order"
    assert answer.trailing == (("grpc-status-details-bin", status),)
