"""`python -m lepton_edge.cli` is `lepton-edge`."""

from lepton_edge.cli import main

main()
