"""``python -m worker.demo [--stop]``: run the demo; the exit status is 0 only if all that it claims really happened."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from worker.demo import scenario
from worker.demo.service import DemoError
from worker.service_file import read_service


def main() -> int:
    """Run, or stop what an earlier run has kept."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path(".demo"), help="folder of the demo's service")
    parser.add_argument("--keep", action="store_true", help="leave the service and the clone running")
    parser.add_argument("--stop", action="store_true", help="end what --keep left running")
    arguments = parser.parse_args()
    data_dir = arguments.data_dir.absolute()
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        if arguments.stop:
            _stop(data_dir)
        else:
            scenario.run(data_dir, console, keep=arguments.keep or os.environ.get("KEEP") == "1")
    except DemoError as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _stop(data_dir: Path) -> None:
    service = read_service(data_dir)
    if service is not None:
        os.kill(service["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 40
        while read_service(data_dir) is not None:
            if time.monotonic() > deadline:
                raise DemoError(f"the service in {data_dir} (pid {service['pid']}) does not stop")
            time.sleep(0.1)
        Console().print("The demo's service has stopped; its clones stop now.")
    scenario.remove_vms(data_dir)
    shutil.rmtree(data_dir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
