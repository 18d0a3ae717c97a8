"""EC2 without an account: moto behind a layer that does what real EC2 does and moto does not."""

from standins.ec2.layer import Ec2Layer
from standins.ec2.server import Ec2StandIn
from standins.ec2.state import Effect

__all__ = ["Ec2Layer", "Ec2StandIn", "Effect"]
