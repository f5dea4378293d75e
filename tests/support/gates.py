"""Gates that the test opens."""

from __future__ import annotations

import trio


class Gate:
    """As ``core.queue.Gate``; for use in a trio loop."""

    def __init__(self) -> None:
        self.shut = True
        self._event = trio.Event()

    def open(self) -> None:
        self.shut = False
        self._event.set()

    async def opened(self) -> None:
        await self._event.wait()
