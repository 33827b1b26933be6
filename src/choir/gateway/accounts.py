"""A call and its user's tokens and money: reserved before it goes out, settled when it ends."""

from __future__ import annotations

import time

from choir.gateway.bounds import quote, settlement
from choir.gateway.dialects import Counts
from choir.gateway.inspection import Inspected
from choir.gateway.policy import Reservation, limited
from choir.gateway.prices import PriceTable
from choir.gateway.refusals import Refusal
from choir.gateway.routing import Match
from choir.gateway.sandboxes import Sandbox


def reserve(
    sandbox: Sandbox, match: Match, model: str | None, found: Inspected, prices: PriceTable, wall: float
) -> Reservation | Refusal | None:
    """The most the call can use; None where nothing is limited.

    Args:
        wall: when the call started, seconds since the epoch.
    """
    limits = sandbox.budget.limits
    if match.billing == "free" or not limited(limits):
        return None
    most = quote(match, model, found.input_bound, found.output_bound, prices, limits, found.dearer)
    if isinstance(most, Refusal):
        return most
    tokens, cost = most
    return sandbox.spending.reserve(limits, tokens, cost, time.perf_counter(), wall)


def settle(
    sandbox: Sandbox,
    match: Match,
    model: str | None,
    reservation: Reservation | None,
    counts: Counts | None,
    whole: bool,
    billed: bool,
    prices: PriceTable,
    wall: float,
) -> int | None:
    """Take what the call used, and give back the rest. Once for each call.

    Args:
        whole: the answer came to its end.
        billed: a provider may ask money for it.

    Returns:
        what it cost in picodollars, None when that is not known.
    """
    rate = prices.find(match.provider.name, model)
    if rate is None and reservation is None:
        return None
    used = settlement(reservation, rate, match.billing, counts, whole, billed)
    if reservation is not None:
        sandbox.spending.settle(reservation, used.tokens, used.cost or 0, time.perf_counter(), time.time())
    elif used.cost:
        sandbox.spending.spend(used.cost, wall, time.time())
    return used.cost
