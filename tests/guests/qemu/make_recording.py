"""Record what a real QEMU answers to :func:`migrated.guests.qemu.inspect.inspect`, for tests without one.

    python tests/guests/qemu/make_recording.py tests/guests/qemu/recorded/NAME.json -- QEMU ARGUMENTS...

The machine is started with its processors stopped, a monitor and the given words.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from migrated.guests.qemu.inspect import inspect
from migrated.guests.qemu.qmp import Qmp


def main() -> None:
    """Start, ask, write."""
    target, command = Path(sys.argv[1]), sys.argv[3:]
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "qmp"
        qemu = subprocess.Popen(
            [*command, "-S", "-display", "none", "-qmp", f"unix:{socket},server=on,wait=off"]
        )
        try:
            while not socket.exists():
                time.sleep(0.05)
            qmp = Qmp(socket)
            answers: dict[str, Any] = {}

            def ask(name: str, arguments: Any = None) -> Any:
                answer = qmp.execute(name, arguments)
                answers[json.dumps([name, arguments])] = answer
                return answer

            inspect(qmp.greeting, ask)
            text = json.dumps({"greeting": qmp.greeting, "answers": answers}, indent=1)
            target.write_text(text + "\n")
            qmp.close()
        finally:
            qemu.kill()
            qemu.wait()


if __name__ == "__main__":
    main()
