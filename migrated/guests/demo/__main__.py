"""``python -m migrated.guests.demo``: run the demo guest."""

import sys

from migrated.guests.demo.program import main

sys.exit(main())
