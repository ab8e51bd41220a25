"""What cannot be collected where an extra is missing."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

collect_ignore: list[str] = []
if find_spec("torch") is None:  # networks are torch; whoever needs one imports them on first use
    here = Path(__file__).parent
    collect_ignore += [
        str(path.relative_to(here))
        for path in sorted((here / "src/propend/models/sequence").glob("*.py"))
        if re.search(r"^import torch$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
