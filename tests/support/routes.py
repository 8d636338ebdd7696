"""Our routes on a real server of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from aiohttp import web
from managed_models.manager import AdvancedModelManager
from managed_models.manager.routes import add_routes


@contextmanager
def serving(table: web.RouteTableDef) -> Iterator[str]:
    """Serve these routes until the block ends; give the server's address."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.add_routes(table)
    runner = web.AppRunner(app, access_log=None)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def serving_routes(manager: AdvancedModelManager) -> AbstractContextManager[str]:
    """Serve the routes of a manager; see :func:`serving`."""
    table = web.RouteTableDef()
    add_routes(table, lambda: manager)
    return serving(table)
