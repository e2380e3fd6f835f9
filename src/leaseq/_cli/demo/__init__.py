"""The demo: index a tree of Python files with workers that die, and check that nothing is lost.

It is also an example of a real program on the queue, to be read in this order:

- ``files``: the facts that are read from one file; there is no queue in it;
- ``job``: the queue, its workers, and the faults that are made on purpose;
- ``audit``: an observer that checks the promises of the queue;
- ``shared`` and ``process``: the same over several processes, some of which are killed;
- ``command``: ``leaseq demo``, with the progress bar and the table. Only this needs
  ``leaseq[cli]``.
"""

from .files import find_files
from .job import Options, Report, index

__all__ = ["Options", "Report", "find_files", "index"]
