"""Run TensorFlow programs of ``examples/`` one after the other in this interpreter, which has TensorFlow.

Usage: ``run_programs.py JSON``, a list of ``[name, script, [argument, ...]]``. Prints one JSON object per program: its
name and the objects that it printed, or the text of its error. TensorFlow is imported once for all.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path


def main() -> None:
    import tensorflow.compat.v1 as tf

    for name, script, arguments in json.loads(sys.argv[1]):
        sys.path[0] = str(Path(script).parent)
        sys.argv = [script, *arguments]
        tf.reset_default_graph()
        printed = io.StringIO()
        answer = {"name": name}
        try:
            with contextlib.redirect_stdout(printed):
                runpy.run_path(script, run_name="__main__")
        except BaseException:
            answer["error"] = traceback.format_exc()
        answer["lines"] = [json.loads(line) for line in printed.getvalue().splitlines()]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
