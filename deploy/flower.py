"""Flower's configuration: whoever opens it must know the password, which is read from its file."""

import os
import pathlib

basic_auth = ["clonejob:" + pathlib.Path(os.environ["FLOWER_PASSWORD_FILE"]).read_text(encoding="utf-8").strip()]
max_tasks = 10_000
# Of a task only its name, state and ids: arguments are job ids, results are none.
natural_time = False
