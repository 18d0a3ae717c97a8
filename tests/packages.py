"""Other packages that bring types of targets, as an installer leaves them: a module and its metadata on the path."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, package: str, version: str, module: str, source: str, **types: str) -> None:
    """Write one package below ``site``, which must be on the path; ``types``: type name to class name."""
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [f"{name} = {module}:{value}" for name, value in types.items()]
    info.joinpath("entry_points.txt").write_text("\n".join(["[clonejob.targets]", *lines, ""]))
    site.joinpath(f"{module}.py").write_text(source)
