"""The little of EC2's XML that the layer reads and rewrites."""

from __future__ import annotations

from xml.etree import ElementTree as ET

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"


def plain(body):
    """The tree without namespaces."""
    root = ET.fromstring(body)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    return root


def text(root):
    root.set("xmlns", NAMESPACE)
    return ET.tostring(root)


def ids(root, tag):
    return [node.text for node in root.iter(tag)]


def set_state(item, code, name):
    state = item.find("instanceState")
    state.find("code").text, state.find("name").text = str(code), name


def element(tag, value=None, children=()):
    node = ET.Element(tag)
    node.text = value
    node.extend(children)
    return node


def error(code, message):
    inner = element("Error", children=[element("Code", code), element("Message", message)])
    return ET.tostring(element("Response", children=[element("Errors", children=[inner]), element("RequestID", "r")]))
