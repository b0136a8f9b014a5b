"""Write into ledger/proof/verify.html the hashes of its own script and style, which are all that
its content security policy lets run. ``--check`` fails when they are stale.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "ledger" / "proof" / "verify.html"
META = re.compile(r'(?<=<meta http-equiv="Content-Security-Policy" content=")[^"]*(?=">)')


def policy_of(page: str) -> str:
    """Return the content security policy that fits a page: its one script and style, nothing
    else."""
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    directives = {
        "default-src": "'none'",
        "script-src": _source(script),
        "style-src": _source(style),
        "connect-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def sealed(page: str) -> str:
    """Return the page with the policy that fits it; ValueError unless it has one place for it."""
    if len(META.findall(page)) != 1:
        raise ValueError("the page has not one content security policy")
    return META.sub(lambda _: policy_of(page), page)


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        if page != sealed(page):
            sys.stderr.write(f"stale: {PAGE.name}; run python tools/seal_page.py\n")
            return 1
    else:
        PAGE.write_text(sealed(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
