"""What real EC2 has and moto lacks, as WSGI before moto, and the faults of a bad day.

Client tokens (``honours_tokens``), unique image names, tags at RegisterImage (``tags_images``), snapshots kept in an
image's mappings and in the instance's volumes, lists that lag (``lag_s``), starts and ends that take their time
(``start_s``, ``end_s``), volumes that outlive their instance (``leaves_volumes``). ``effects`` is the log that a judge
reads: what came to exist and what went, written where it happened. ``calls`` has every request.
"""

from __future__ import annotations

import base64
import io
import re
import socket
from urllib.parse import parse_qsl, urlencode

from standins.ec2 import xml
from standins.ec2.state import StandInState

_AUTHENTICATION = ("ClientToken", "Version", "Action")


class Answer(Exception):
    """An answer of the layer's own."""

    def __init__(self, status, body):
        self.status, self.body = status, body


def refusal(code, message, status="400 Bad Request"):
    return Answer(status, xml.error(code, message))


class Ec2Layer(StandInState):
    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        params = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = params.get("Action", "")
        if act := self._before.pop(action, None) if params.get("DryRun") != "true" else None:
            act()
        with self._lock:
            self.calls.append((action, params))
            fault = None if params.get("DryRun") == "true" else self._fault(action)
            try:
                status, answer = self._answer(environ, action, params, fault)
            except Answer as own:
                status, answer = own.status, own.body
        if fault is not None and fault.fault == "go_silent":
            self.fail(".*", "busy", times=None)
        if fault is not None and fault.fault in ("lose_reply", "go_silent"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start_response(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(answer)))])
        return [answer]

    def _fault(self, action):
        for fault in self.faults:
            if re.fullmatch(fault.action, action) and fault.times != 0:
                if self._chance.randrange(fault.every) == 0:
                    fault.hits += 1
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def _answer(self, environ, action, params, fault):
        match fault.fault if fault else None:
            case "throttle":
                raise refusal("RequestLimitExceeded", "Request limit exceeded.", "503 Service Unavailable")
            case "busy":
                raise refusal(fault.code or "InternalError", "An internal error has occurred.", "500 Internal Error")
            case "refuse":
                raise refusal(fault.code, "The stand-in was told to refuse.")
        self._end_what_is_due()
        if params.get("DryRun") == "true":
            if action in self._dry_runs:
                raise refusal(self._dry_runs[action], "The stand-in was told to refuse.", "403 Forbidden")
            return self._forward(environ, params)
        handler = getattr(self, f"_on_{action}", self._forward)
        return handler(environ, params)

    def _forward(self, environ, params):
        body = urlencode(params).encode()
        answered = {}

        def start(status, headers, exc_info=None):
            answered["status"] = status

        inner = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)),
                 "HTTP_X_MOTO_ACCOUNT_ID": self.account}  # fmt: skip
        chunks = self._moto(inner, start)
        return answered["status"], b"".join(chunks)

    # Images

    def _on_RegisterImage(self, environ, params):
        if params["Name"] in self.images().values():
            raise refusal("InvalidAMIName.Duplicate", f"AMI name {params['Name']} is already in use.")
        mappings = _mappings(params)
        for device in mappings.values():
            if device["Ebs.SnapshotId"] not in self.backend.snapshots:
                raise refusal("InvalidSnapshot.NotFound", f"The snapshot '{device['Ebs.SnapshotId']}' does not exist.")
        status, body = self._forward(environ, params)
        (image_id,) = xml.ids(xml.plain(body), "imageId")
        self._mappings[image_id] = mappings
        self._ready_at[image_id], self._shown_at[image_id] = self.clock() + self.start_s, self.clock() + self.lag_s
        marks = _tags(params, "image")
        if self.tags_images:
            self.backend.create_tags([image_id], marks)
        self._log("made", "image", image_id, marks.get("clonejob-id"), params["Name"])
        return status, body

    def _on_DeregisterImage(self, environ, params):
        status, body = self._forward(environ, params)
        if status.startswith("200"):
            self._log("gone", "image", params["ImageId"])
        return status, body

    def _on_DescribeImages(self, environ, params):
        status, body = self._forward(environ, params)
        root = xml.plain(body)
        for items in root.iter("imagesSet"):
            for item in list(items):
                image_id = item.find("imageId").text
                if self._hidden(image_id):
                    items.remove(item)
                    continue
                if self.clock() < self._ready_at.get(image_id, 0):
                    item.find("imageState").text = "pending"
                if image_id in self._mappings:
                    item.remove(item.find("blockDeviceMapping"))
                    item.append(xml.element("blockDeviceMapping", children=[
                        xml.element("item", children=[
                            xml.element("deviceName", device),
                            xml.element("ebs", children=[xml.element("snapshotId", values["Ebs.SnapshotId"])]),
                        ]) for device, values in self._mappings[image_id].items()
                    ]))  # fmt: skip
        return status, xml.text(root)

    # Instances

    def _on_RunInstances(self, environ, params):
        token = params.get("ClientToken")
        wanted = {key: value for key, value in params.items() if key not in _AUTHENTICATION}
        if self.honours_tokens and token in self._tokens:
            earlier, instance_id = self._tokens[token]
            if earlier != wanted:
                raise refusal("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent.")
            return self._replayed(environ, instance_id)
        mappings = {device: dict(values) for device, values in self._mappings.get(params["ImageId"], {}).items()}
        for device, values in _mappings(params).items():
            mappings[device] = {**mappings.get(device, {}), **values}
        forwarded = {key: value for key, value in params.items() if not key.startswith("BlockDeviceMapping.")}
        for number, (device, values) in enumerate(mappings.items(), 1):
            if self.leaves_volumes:
                values["Ebs.DeleteOnTermination"] = "false"
            forwarded[f"BlockDeviceMapping.{number}.DeviceName"] = device
            forwarded.update({f"BlockDeviceMapping.{number}.{key}": value for key, value in values.items()})
        status, body = self._forward(environ, forwarded)
        if not status.startswith("200"):
            return status, body
        (instance_id,) = xml.ids(xml.plain(body), "instanceId")[:1]
        if token:
            self._tokens[token] = (wanted, instance_id)
        self._ready_at[instance_id] = self.clock() + self.start_s + self.launch_s
        self._shown_at[instance_id] = self.clock() + self.lag_s
        marks = _tags(params, "instance")
        self._log("made", "instance", instance_id, marks.get("clonejob-id"), marks.get("Name", ""))
        if self._ends_at_start is not None:
            self.backend.terminate_instances([instance_id])
            reason = self.backend.get_instance(instance_id).state_reason
            reason.code, reason.message = self._ends_at_start
            self._ended(instance_id)
        return status, body

    def _replayed(self, environ, instance_id):
        action = {"Action": "DescribeInstances", "Version": "2016-11-15", "InstanceId.1": instance_id}
        _, body = self._forward(environ, action)
        root = xml.plain(body)
        self._set_states(root)
        (reservation,) = root.find("reservationSet")
        reservation.tag = "RunInstancesResponse"
        return "200 OK", xml.text(reservation)

    def _on_DescribeInstances(self, environ, params):
        status, body = self._forward(environ, params)
        root = xml.plain(body)
        for items in list(root.iter("instancesSet")):
            for item in list(items):
                if self._hidden(item.find("instanceId").text):
                    items.remove(item)
        self._set_states(root)
        return status, xml.text(root)

    def _set_states(self, root):
        now = self.clock()
        for items in root.iter("instancesSet"):
            for item in items:
                instance_id, state = item.find("instanceId").text, item.find("instanceState/name").text
                if instance_id in self._ending:
                    xml.set_state(item, 32, "shutting-down")
                elif state == "running" and now < self._ready_at.get(instance_id, 0):
                    xml.set_state(item, 0, "pending")

    def _on_TerminateInstances(self, environ, params):
        ids = [value for key, value in params.items() if key.startswith("InstanceId.")]
        alive = self.instances()
        for each in ids:
            if each in alive and each not in self._ending:
                self._log("going", "instance", each)
        if self.end_s <= 0 or any(each not in alive for each in ids):
            status, body = self._forward(environ, params)
            for each in ids:
                if status.startswith("200") and each in alive:
                    self._ended(each)
            return status, body
        for each in ids:
            self._ending.setdefault(each, self.clock() + self.end_s)
        return "200 OK", xml.text(xml.element("TerminateInstancesResponse", children=[xml.element("instancesSet")]))

    def _ended(self, instance_id):
        self._ending.pop(instance_id, None)
        self._log("gone", "instance", instance_id)

    def _end_what_is_due(self):
        for each in [each for each, due in self._ending.items() if self.clock() >= due]:
            self.backend.terminate_instances([each])
            self._ended(each)

    def _on_DescribeVolumes(self, environ, params):
        status, body = self._forward(environ, params)
        root = xml.plain(body)
        for items in root.iter("volumeSet"):
            for item in list(items):
                attached = item.find("attachmentSet/item/instanceId")
                if attached is not None and self._hidden(attached.text):
                    items.remove(item)
        return status, xml.text(root)

    def _on_DeleteVolume(self, environ, params):
        status, body = self._forward(environ, params)
        if status.startswith("200"):
            self._log("gone", "volume", params["VolumeId"])
        return status, body

    def _on_GetConsoleOutput(self, environ, params):
        output = base64.b64encode(self.console.encode()).decode()
        return "200 OK", xml.text(xml.element("GetConsoleOutputResponse", children=[
            xml.element("instanceId", params["InstanceId"]), xml.element("output", output)]))  # fmt: skip


def _mappings(params):
    """Block device mappings of a request, by device name."""
    found = {}
    for key, value in params.items():
        if match := re.fullmatch(r"BlockDeviceMapping\.(\d+)\.(.+)", key):
            found.setdefault(int(match[1]), {})[match[2]] = value
    return {values.pop("DeviceName"): values for _, values in sorted(found.items())}


def _tags(params, resource):
    """The tags that a request gives to one type of resource."""
    for number in range(1, 6):
        if params.get(f"TagSpecification.{number}.ResourceType") == resource:
            prefix = f"TagSpecification.{number}.Tag."
            keys = {key: value for key, value in params.items() if key.startswith(prefix)}
            return {keys[key]: keys[key.removesuffix("Key") + "Value"] for key in keys if key.endswith(".Key")}
    return {}
