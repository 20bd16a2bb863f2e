"""Transitions off the executor: while one runs, for minutes where an engine is built, services answer."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lifecycle_msgs.srv import ChangeState

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode


@dataclass(frozen=True)
class _Later:
    """Stands for an answer that is not there yet."""

    request: ChangeState.Request


class Transitions:
    """Runs a life-cycle node's transitions, one after another, in a thread of their own.

    rclpy runs them in the executor, where a transition that takes long keeps everything else waiting, and
    lets one that the state forbids raise inside the service, so that whoever asked waits for ever. Here the
    service's request goes to the thread, and the answer leaves when the transition is done.
    """

    def __init__(self, node: LifecycleNode) -> None:
        """Take over a node's service ``change_state``."""
        self._node = node
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        service = node._service_change_state
        self._change_state = service.callback
        self._send = service.send_response
        service.callback = self._accept
        service.send_response = self._answer
        self._thread = threading.Thread(target=self._run, name="transitions", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a transition runs."""
        return self._busy.is_set()

    def submit(self, work: Callable[[], None]) -> None:
        """Run a function in the thread, as a transition."""
        self._busy.set()
        self._work.put(work)

    def stop(self, patience_s: float) -> bool:
        """End the thread after the transition in hand; return whether it ended in time (seconds)."""
        self._work.put(None)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _accept(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response | _Later:
        """Take a request, in the executor."""
        if not self.busy:
            return _Later(request)
        # It would reach the state machine between two states, where a transition's inner steps are allowed.
        self._refuse(request, "another transition is running; ask again when it is done")
        response.success = False
        return response

    def _answer(self, response: ChangeState.Response | _Later, header: object) -> None:
        if isinstance(response, _Later):
            self.submit(lambda: self._transition(response.request, header))
        else:
            self._send(response, header)

    def _transition(self, request: ChangeState.Request, header: object) -> None:
        """Run a transition and answer, in the thread."""
        response = ChangeState.Response()
        try:
            response = self._change_state(request, response)
        except Exception as error:  # rclpy's errors have no class in common
            self._refuse(request, str(error).splitlines()[0])
            response.success = False
        # Whoever has the answer may ask for the next transition at once.
        self._busy.clear()
        self._send(response, header)

    def _refuse(self, request: ChangeState.Request, reason: str) -> None:
        wanted = request.transition.label or request.transition.id
        self._node.get_logger().error(f"transition {wanted} refused: {reason}")

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                self._node.get_logger().error(f"a transition failed:\n{traceback.format_exc()}")
            self._busy.clear()
