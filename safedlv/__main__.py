"""``python -m safedlv``."""

import sys

from safedlv.cli import main

sys.exit(main())
