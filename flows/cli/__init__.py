"""The command line `empamba`: the one part of flows/ that holds no flow.

commands.py lists the commands; options.py says which run is meant; entry.py turns mistakes and failures into exit
codes. Knows nothing of what stages do.
"""

from flows.cli.entry import main

__all__ = ["main"]
