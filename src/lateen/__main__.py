"""`python -m lateen` is the command `lateen`."""

import sys

from lateen.cli import main

if __name__ == "__main__":
    sys.exit(main())
