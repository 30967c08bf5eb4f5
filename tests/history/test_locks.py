"""Several connections of one process to a history in a file, and other processes beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from hocket.history.store import Store

READ = "import sys; from hocket.history.store import Store; Store(sys.argv[1], reading=True).connect().close()"


def test_a_second_connection_leaves_the_first_its_locks(tmp_path: Path) -> None:
    """Without them the next process that reads takes itself for the last, and deletes the write-ahead log."""
    url = str(tmp_path / "history.db")
    log = Path(f"{url}-wal")
    with Store(url).connect() as connection:
        with connection.begin():
            connection.execute(text("DELETE FROM runs"))
        Store(url, reading=True).connect().close()
        assert log.exists()
        subprocess.run([sys.executable, "-c", READ, url], check=True, timeout=60)
        assert log.exists(), "another process deleted it"
