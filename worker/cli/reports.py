"""What ``plan`` and ``explain`` say to people."""

from __future__ import annotations

from typing import Any

from worker.cli.context import short_name
from worker.cli.output import show_time, step_text, table

Json = dict[str, Any]


def plan(found: Json) -> str:
    """A dry run."""
    lines = [f"{short_name(found['migratingVm'])}: " + ("can be cloned" if found["ready"] else "cannot be cloned now")]
    for blocker in found["blockers"]:
        lines += [f"  blocked: {blocker['message']} ({blocker['reason']})", f"           {blocker['action']}"]
    lines.append(f"target   {found['target'] or '-'}")
    if mode := found.get("cloneMode"):
        lines.append(f"disks    clone mode {mode}")
    cycle = found["replicationCycle"]
    if cycle is None:
        return "\n".join([*lines, "cycle    -"])
    lines.append(f"cycle    {cycle['cycleNumber']}, uploaded {show_time(cycle['endTime'])}")
    disks = [
        (
            disk["diskNumber"],
            disk["format"],
            _size(disk["virtualSizeBytes"]),
            _size(disk["storedSizeBytes"]),
            disk["sha256"],
        )
        for disk in cycle["snapshots"]
    ]
    steps = [(step_text(step["kind"]), step["reason"]) for step in found["steps"]]
    resources = [(each["kind"], each["name"], each["role"]) for each in found["resources"]]
    parts = (
        ("Snapshots", ("DISK", "FORMAT", "SIZE", "STORED", "SHA256"), disks),
        ("Steps", ("STEP", "WHY"), steps),
        ("Resources", ("KIND", "NAME", "ROLE"), resources),
    )
    return "\n".join(lines) + "".join(f"\n\n{title}\n{table(head, rows, indent='  ')}" for title, head, rows in parts)


def explanation(found: Json) -> str:
    """Why a job is where it is."""
    lines = [f"{short_name(found['name'])}: {found['summary']}"]
    if mode := found.get("cloneMode"):
        lines.append(f"disks    clone mode {mode}")
    waits, failure = found["waitsFor"], found["failure"]
    if waits is not None:
        lines.append(
            f"waits    {waits['reason']} since {show_time(waits['since'])}, looked at again by {show_time(waits['until'])}"
        )
    if failure is not None:
        step = step_text(failure["step"] or "finish")
        lines.append(
            f"failed   {show_time(failure['time'])} in step {step}, {failure['code']}, after {failure['attempts']} attempt(s)"
        )
    rows = [
        *((each["kind"], each["name"], "kept", "") for each in found["kept"]),
        *((each["kind"], each["name"], each["state"].lower(), "") for each in found["left"]),
        *((each["kind"], each["name"], "seen absent", f"{show_time(each['absentTime'])} {each['detail'] or ''}".strip())
          for each in found["cleaned"]),
    ]  # fmt: skip
    if rows:
        lines.append(table(("KIND", "NAME", "NOW", "SINCE"), rows, indent="  "))
    return "\n".join([*lines, *(f"next     {each}" for each in found["next"])])


def _size(text: str) -> str:
    size = float(text)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def cycles(found: list[Json], proofs: list[Json]) -> str:
    """The cycles of a VM with what they warn of, and what its clones have shown of each: one that booted counts, otherwise
    the newest."""
    rows, warned = [], False
    for cycle in found:
        shown = [proof for proof in proofs if proof["replicationCycle"] == cycle["name"]]
        best = next((proof for proof in shown if proof["verdict"] == "BOOTED"), shown[0] if shown else None)
        boots = "not tried yet" if best is None else _boots(best)
        warnings = [each["warningMessage"]["message"] for each in cycle.get("warnings", [])]
        warned = warned or bool(warnings)
        rows.append(
            (cycle["name"].rpartition("/")[2], cycle.get("state", ""), show_time(cycle.get("startTime")), boots,
             " ".join(warnings))
        )  # fmt: skip
    head = ("CYCLE", "STATE", "STARTED", "BOOTS", "WARNING")
    return table(head, rows) if warned else table(head[:-1], [row[:-1] for row in rows])


def _boots(proof: Json) -> str:
    word = "proven" if proof["verdict"] == "BOOTED" else proof["verdict"]
    return f"{word} by {short_name(proof['cloneJob'])} at {show_time(proof['time'])}"
