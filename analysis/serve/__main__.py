"""Show the studies of a results folder in the browser, and their pages as runs go on.

    python -m analysis.serve results
    python -m analysis.serve results --port 8899 --open

Only this machine can reach it, and it writes nothing. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import show_cause
from analysis.load.packed import begin_reading

PORT = 8642


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C. Returns 1 after a sentence on standard error where the folder or the port cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.serve", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("results", type=Path, help="a results folder with any number of studies, or the folder of one study")
    parser.add_argument("--port", type=int, default=PORT, help=f"port of the loopback address (default: {PORT}; 0: a free one)")
    parser.add_argument("--open", action="store_true", help="open the list of studies in the browser")
    options = parser.parse_args(arguments)
    try:
        if not 0 <= options.port < 1 << 16:
            raise UserError(f"--port {options.port} is no port: name one below 65536, or 0 for a free one")
        begin_reading([options.results])
        # Imported here, because jinja2 and numpy take time that --help should not wait for.
        from analysis.serve.server import new_server
        from analysis.serve.studies import Studies

        try:
            server = new_server(Studies(options.results), options.port)
        except OSError as error:
            raise UserError(
                f"port {options.port} cannot be used ({error.strerror}): name another with --port, or 0 for a free one"
            ) from error
    except UserError as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    address = f"http://127.0.0.1:{server.server_port}/"
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if options.open:
        webbrowser.open(address)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
