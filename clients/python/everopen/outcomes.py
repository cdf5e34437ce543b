"""The outcomes by short names, for reading answers: `if answer.outcome == everopen.PLACED`."""

from everopen.v1.order_pb2 import OrderState
from everopen.v1.outcome_pb2 import Outcome

PLACED = Outcome.OUTCOME_PLACED
BACKORDERED = Outcome.OUTCOME_BACKORDERED
APPLIED = Outcome.OUTCOME_APPLIED
RETRY_TOO_OLD = Outcome.OUTCOME_RETRY_TOO_OLD
NOT_FOR_SALE = Outcome.OUTCOME_NOT_FOR_SALE
PRICE_CHANGED = Outcome.OUTCOME_PRICE_CHANGED
BUYER_LIMIT = Outcome.OUTCOME_BUYER_LIMIT
INSUFFICIENT_STOCK = Outcome.OUTCOME_INSUFFICIENT_STOCK
ILLEGAL_STATE = Outcome.OUTCOME_ILLEGAL_STATE


def outcome_name(outcome: int) -> str:
    """PLACED, INSUFFICIENT_STOCK, ...; a number that this client does not know as that number."""
    known = Outcome.DESCRIPTOR.values_by_number.get(outcome)
    return known.name.removeprefix("OUTCOME_") if known else str(outcome)


def state_name(state: int) -> str:
    """PLACED, PARTIALLY_SHIPPED, ...; a number that this client does not know as that number."""
    known = OrderState.DESCRIPTOR.values_by_number.get(state)
    return known.name.removeprefix("ORDER_STATE_") if known else str(state)
