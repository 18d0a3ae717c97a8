"""``clonejob`` whose ``up`` starts a child again at once, however often it has died before.

For who kills the same child a hundred times: growing pauses are for children that cannot live.
"""

import worker.supervisor
from worker.cli import main

worker.supervisor.BACKOFF_MAX_S = worker.supervisor.BACKOFF_FIRST_S
main()
