"""The demo: index a tree of Python files with workers that die, and check that nothing is lost.

It is also an example of a real program on the queue, to be read in this order:

- ``files``: what is read from one file; no queue in it;
- ``job``: the queue, its workers, and what goes wrong on purpose;
- ``audit``: an onlooker who checks what the queue promises;
- ``command``: ``leaseq demo``, with the progress bar and the table. It alone needs
  ``leaseq[cli]``.
"""

from .files import find_files
from .job import Options, Report, index

__all__ = ["Options", "Report", "find_files", "index"]
