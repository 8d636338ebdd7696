"""Downloads one file in a process of its own, which the tests and a benchmark kill.

python tests/support/download_child.py URL TARGET CONNECTIONS SYNC_BYTES [SHA256]
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _load_checkout() -> None:
    spec = importlib.util.spec_from_file_location("managed_models", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["managed_models"] = module
    spec.loader.exec_module(module)


def main() -> None:
    _load_checkout()
    from managed_models.manager.download.limits import Limits
    from managed_models.manager.download.model import DownloadRequest
    from managed_models.manager.download.transfer import Transfer
    from managed_models.manager.remote.reach import Reach

    url, target, connections, sync_bytes, *sha256 = sys.argv[1:]
    request = DownloadRequest(
        url,
        Path(target),
        sha256=sha256[0] if sha256 else None,
        connections=int(connections),
        allow_local=True,
    )
    least = min(int(sync_bytes), 256 * 1024)
    limits = Limits(sync_bytes=int(sync_bytes), smallest_piece=least, least_stolen=least, tick=0.005)
    print(Transfer(request, Reach(allow_local=True), limits=limits, environ={}).run().sha256)


if __name__ == "__main__":
    main()
