"""Every call of the EC2 API that this target makes, and the IAM policy that allows just these."""

from __future__ import annotations

from typing import Any

from targets.base import LABEL_JOB_ID

# Calls that change nothing; IAM knows no resources for them.
READING = {
    "describe_images": "ec2:DescribeImages",
    "describe_instance_status": "ec2:DescribeInstanceStatus",
    "describe_instances": "ec2:DescribeInstances",
    "describe_security_groups": "ec2:DescribeSecurityGroups",
    "describe_snapshots": "ec2:DescribeSnapshots",
    "describe_volumes": "ec2:DescribeVolumes",
    "get_console_output": "ec2:GetConsoleOutput",
}
MAKING = {
    "register_image": "ec2:RegisterImage",
    "run_instances": "ec2:RunInstances",
}
# Only on what is being made in the same call: otherwise our tag, and with it the right to delete, could go on anything.
TAGGING = {"create_tags": "ec2:CreateTags"}
# Only on what carries our tag: IAM holds R9 too.
ON_OURS = {
    "delete_volume": "ec2:DeleteVolume",
    "deregister_image": "ec2:DeregisterImage",
    "start_instances": "ec2:StartInstances",
    "terminate_instances": "ec2:TerminateInstances",
}
ACTIONS = READING | MAKING | TAGGING | ON_OURS


def policy() -> dict[str, Any]:
    """The policy document for whoever runs the service."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("ClonejobReads", READING),
            _allow("ClonejobMakes", MAKING),
            _allow("ClonejobTagsWhatItMakes", TAGGING)
            | {"Condition": {"StringEquals": {"ec2:CreateAction": ["RegisterImage", "RunInstances"]}}},
            _allow("ClonejobEndsItsOwn", ON_OURS)
            | {"Condition": {"Null": {f"aws:ResourceTag/{LABEL_JOB_ID}": "false"}}},
        ],
    }


def _allow(sid: str, actions: dict[str, str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": sorted(actions.values()), "Resource": "*"}
