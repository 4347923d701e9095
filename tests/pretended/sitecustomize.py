"""Python reads this at its start where the folder is on its path: it then has the device of tests/pretend.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import pretend

pretend.appear()
