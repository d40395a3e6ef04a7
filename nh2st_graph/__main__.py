"""``python -m nh2st_graph`` is ``nh2st-graph``."""

from nh2st_graph.cli import main

main()
