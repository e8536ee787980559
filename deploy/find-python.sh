#!/bin/sh
# Print the Python to build .venv with: $PYTHON if set, else the newest of those below that works.
# "Works" is tried, not guessed from the name: a version manager's shim may be on PATH for a Python that is not
# there, and Debian's python3 makes no virtual environments until python3-venv is installed.
set -eu

tried=""
newline="
"
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if ! found=$(command -v "$name" 2>/dev/null); then
        [ -z "${PYTHON:-}" ] || tried="
  $name: no such program"
        continue
    fi
    if why=$("$found" -c '
import sys
if sys.version_info < (3, 11):
    sys.exit("is version %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no ensurepip (Debian: apt install python3-venv)")
' 2>&1); then
        echo "$found"
        exit 0
    fi
    tried="$tried
  $found: ${why%%"$newline"*}"
done

echo "Python 3.11 or newer with its venv module is needed, and none was found.${tried:+ Tried:$tried}" >&2
echo "Install one (Debian 12: apt install python3-venv), or name it: make PYTHON=/path/to/python3.13 ..." >&2
exit 1
