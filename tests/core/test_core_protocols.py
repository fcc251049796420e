"""The registry of protocols is complete: no order names one that is not there."""

from __future__ import annotations

from typing import get_args

from leukoscope.core import protocols


def test_the_configuration_knows_every_protocol_in_the_order_of_the_registry() -> None:
    assert get_args(protocols.ProtocolName) == tuple(protocols.PROTOCOLS)


def test_every_order_is_of_known_protocols() -> None:
    known = set(protocols.PROTOCOLS)
    assert set(protocols.WORDS) == known | {"external"}
    assert set(protocols.IN_VERDICT) == set(protocols.VOUCHING) == known
    assert set(protocols.BY_STRICTNESS) | set(protocols.SEPARATING) <= known
    assert {name for names in protocols.JUDGED for name in names} <= set(protocols.SEPARATING)


def test_every_protocol_has_all_its_words() -> None:
    for protocol in protocols.PROTOCOLS.values():
        assert protocol.setting
        assert protocol.title
        assert protocol.basis
        assert protocol.held_out or protocol.own_parts
        assert protocol.shows.count("{}") == 1
