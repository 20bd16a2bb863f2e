"""A child process that behaves as it is asked to, well or badly."""

import os
import signal
import sys
import time

from yolo_trt_node.detector.child import answer_with
from yolo_trt_node.detector.specs import ModelError


def behave(request: dict) -> dict:
    match request["kind"]:
        case "path":
            return {"path": sys.path, "python_path": os.environ.get("PYTHONPATH", "")}
        case "sleep":
            time.sleep(600)
        case "touch memory":
            held = []
            while True:
                held.append(bytearray(os.urandom(1) * (32 << 20)))
        case "crash":
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "print":
            os.write(1, b"what native code prints\n")
        case "refuse":
            raise ModelError("it does not suit")
        case "raise":
            raise RuntimeError("something else")
        case "exit":
            os._exit(7)
    return {"done": request["kind"]}


if __name__ == "__main__":
    answer_with(behave)
