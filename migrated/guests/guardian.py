"""``python -m migrated.guests.guardian HOOKS``: runs a guest's pause and resume commands, and watches over
them.

Takes ``pause``, ``resume`` and ``settle`` on stdin, a line each, and answers with a line of JSON: ``null``,
or what failed. At end of file it resumes a guest that is paused and not settled, and ends.
"""

import json
import signal
import sys

from migrated.errors import MigratedError
from migrated.guests.hooks import Hook

__all__ = ["main"]


def main() -> None:
    """Serve until end of file on stdin."""
    pause, resume = (Hook.of(each) for each in json.loads(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Handled and not ignored: what is ignored the commands would inherit.
        signal.signal(number, lambda *_: None)
    paused = settled = False
    for line in sys.stdin:
        answer = None
        try:
            match line.strip():
                case "pause":
                    paused = True
                    pause.run()
                case "resume" if paused:
                    resume.run()
                    paused = settled = False
                case "settle":
                    settled = True
        except MigratedError as error:
            answer = {"what": error.what, "hint": error.hint}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:
            break
    if paused and not settled:
        resume.run()


if __name__ == "__main__":
    main()
