"""``python -m xcvae``, the command line without an installed script."""

import sys

from xcvae.cli import main

sys.exit(main())
