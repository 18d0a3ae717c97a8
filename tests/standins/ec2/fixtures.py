"""Fixtures for whoever imports them."""

from __future__ import annotations

import pytest
from standins.ec2.kit import Ec2Kit
from standins.ec2.server import Ec2StandIn


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Ec2StandIn() as running:
        yield running


@pytest.fixture
def kit(stand_in):
    return Ec2Kit(stand_in)
