"""One check in this process: `python -m edge.doctor NAME [SETTINGS]`."""

import sys

from edge.doctor.runner import alone

if __name__ == "__main__":
    alone(sys.argv[1:])
