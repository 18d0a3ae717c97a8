"""moto's EC2 and the layer on a loopback port, in a thread of this process, in an account of its own."""

from __future__ import annotations

import functools
import itertools
import os
import threading

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # a second of start-up for images that nobody needs

import boto3
from botocore import loaders
from botocore.config import Config
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from standins.ec2.layer import Ec2Layer
from werkzeug.serving import WSGIRequestHandler, make_server

# Each client parses the API's whole description anew, 0.2 s; one test process parses it once.
_load_file = loaders.JSONFileLoader.load_file
_parsed = functools.cache(lambda path: _load_file(loaders.JSONFileLoader(), path))
loaders.JSONFileLoader.load_file = lambda self, path: _parsed(path)

REGION = "eu-west-1"
_accounts = itertools.count(200_000_000_001)


class _Quiet(WSGIRequestHandler):
    def log(self, type, message, *args):
        return


class Ec2StandIn(Ec2Layer):
    """Serves until ``close``. ``user`` is a client as somebody at the account's console has it."""

    def __init__(self, **behaviour):
        account = str(next(_accounts))
        super().__init__(DomainDispatcherApplication(create_backend_app), account, REGION, **behaviour)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Quiet)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.user = boto3.session.Session("AKIAUSER", "secret", region_name=REGION).client(
            "ec2", endpoint_url=self.endpoint, config=Config(retries={"total_max_attempts": 1})
        )
        self.subnet = self.user.describe_subnets()["Subnets"][0]["SubnetId"]
        self.vpc = self.user.describe_vpcs()["Vpcs"][0]["VpcId"]
        self.closed_group = self.make_group("isolated", egress=False)
        self.open_group = self.make_group("open", egress=True)
        self.forget()

    def close(self):
        self.user.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        get_backend("ec2").pop(self.account, None)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # What a user does by hand

    def make_group(self, name, *, egress):
        group = self.user.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)["GroupId"]
        if not egress:
            everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
            self.user.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
        return group

    def make_snapshot(self, size_gib=8):
        volume = self.user.create_volume(Size=size_gib, AvailabilityZone=f"{REGION}a")["VolumeId"]
        snapshot = self.user.create_snapshot(VolumeId=volume)["SnapshotId"]
        self.user.delete_volume(VolumeId=volume)
        return snapshot

    def launch_by_hand(self, tags):
        """An instance as the console starts it."""
        marks = [{"Key": key, "Value": value} for key, value in tags.items()]
        made = self.user.run_instances(ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1, SubnetId=self.subnet,
                                       TagSpecifications=[{"ResourceType": "instance", "Tags": marks}])  # fmt: skip
        return made["Instances"][0]["InstanceId"]
