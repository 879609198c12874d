"""`python -m rankadaptor`: the command line, see `rankadaptor.commands`.

    python -m rankadaptor plan|reproduce table2|figure2|search|testbed|...   # what it needs; make it
    python -m rankadaptor report                              # one page over all that was reported
    python -m rankadaptor convert ORGANISATION/NAME@COMMIT    # pickled weights as safetensors, once
    python -m rankadaptor check-gpu                           # whether a machine computes right, and as fast as planned
    python -m rankadaptor rank-table --workers 2 --out FILE   # measure the table that searches are replayed on
    python -m rankadaptor plan prune MODEL --ratio 0.25 ...   # sizes that a pruning would leave; reads no weights
    python -m rankadaptor prune MODEL --ratio 0.25 --calibration FILE --out DIR
    python -m rankadaptor measure MODEL --text FILE           # what it costs to run, and its perplexity
    python -m rankadaptor search PRUNED --data FILE --tasks "piqa arc_easy" --budget 24 --out DIR
    python -m rankadaptor recover PRUNED --data FILE --allocation DIR --out ADAPTER
    python -m rankadaptor evaluate PRUNED --adapter ADAPTER
    python -m rankadaptor ledger list|show KEY|verify|gc|export FILE
    python -m rankadaptor testbed pretrain|score FOLDER       # the embedded model, from nothing
"""

import sys

from rankadaptor.commands.app import main

if __name__ == "__main__":
    sys.exit(main())
