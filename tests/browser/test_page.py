"""The page as a user meets it: chosen and dropped files, the verdict in both languages, the
keyboard; and what it must never do: ask the network, run what is not its own, take a name for
markup.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import PAGE
from tests.browser.evidence import Evidence, everything, resealed, smallest, statement_of
from tests.model.proofs import b64

ROOT = Path(__file__).parents[2]
VERDICT = "document.querySelector('#verdict')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files a user would have."""
    evidence = everything()
    (tmp_path / "bundle.zip").write_bytes(evidence.zip)
    (tmp_path / "policy.txt").write_text(evidence.policy)
    for name, data in evidence.files.items():
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(data)
    value = evidence.bundle.value()
    value["items"][2]["entries"].reverse()
    (tmp_path / "bad.json").write_bytes(resealed(value))
    return tmp_path


def text(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def judge(page: Page) -> str:
    """Press the button and return the verdict's class when there is one."""
    page.click("#verify")
    page.wait(f"{VERDICT}.classList.length === 2 && !document.querySelector('#verify').disabled")
    return str(page.run(f"{VERDICT}.classList[1]"))


# ----------------------------------------------------------------------------------------------
# Use
# ----------------------------------------------------------------------------------------------


def test_chosen_files_are_judged_and_told_in_both_languages(fresh: Page, folder: Path) -> None:
    page = fresh
    page.click("#english")
    page.choose("#evidence", folder / "bundle.zip")
    page.choose("#policy-file", folder / "policy.txt")
    page.wait("document.querySelector('#policy').value")
    assert "bundle.zip" in text(page, "#evidence-chosen")
    assert "policy.txt" in text(page, "#policy-chosen")
    assert judge(page) == "accepted"
    assert text(page, "#verdict-title") == "Accepted: everything holds"
    assert "log bank.example/log" in text(page, "#verdict-text")
    assert "2026-01-05 to 2026-01-06" in text(page, "#verdict-text")
    assert text(page, "#status") == "Accepted: everything holds"
    report = text(page, "#report")
    assert "are all the entries of account 1 (ledger 1)" in report
    assert "What this does not show" in report
    fingerprints = re.findall(r"\b[0-9a-f]{64}\b", report)
    assert len(fingerprints) == 5  # log key, two witnesses, policy, bundle
    assert page.run("document.activeElement.id") == "verdict"
    assert page.run("document.querySelectorAll('#checks li.yes').length") > 30
    assert page.run("document.querySelectorAll('#checks li.no').length") == 0

    page.click("#chinese")
    assert page.run("document.documentElement.lang") == "zh-Hans"
    assert text(page, "#verdict-title") == "通过：全部检查成立"
    assert "账户 1, 2" in text(page, "#verdict-text")
    assert "未证明" in text(page, "#report")
    assert "通过" in text(page, "#checks")
    assert page.run("document.title") == "证明核验 · 三元"

    page.click("#english")
    assert page.run("document.documentElement.lang") == "en"
    assert text(page, "#verdict-title") == "Accepted: everything holds"


def test_the_statement_on_screen_is_that_of_the_table(fresh: Page, folder: Path) -> None:
    page = fresh
    page.choose("#evidence", folder / "bundle.zip")
    page.choose("#policy-file", folder / "policy.txt")
    page.wait("document.querySelector('#policy').value")
    judge(page)
    rows = page.run(
        "Array.from(document.querySelector('#report table').tBodies[0].rows,"
        " (row) => Array.from(row.cells, (cell) => cell.innerText))"
    )
    table = everything().files["statement-1.csv"].decode().splitlines()[1:]
    assert len(rows) == len(table) + 1
    for row, line in zip(rows, table, strict=False):
        balances = [cell.replace(",", "") for cell in row[-4:]]
        assert balances == line.split(",")[-4:]
    for row, line in zip(rows[1:-1], table[1:], strict=True):
        columns = line.split(",")
        assert row[0] == columns[0]
        assert row[1] == columns[2].replace("T", " ")[:19]
        assert row[4] == columns[9]
        amount = {"debit": row[5], "credit": row[6], "own": row[5]}[columns[6]]
        kind = row[2]
        expected = {"voided": f"({columns[8]})", "expired": f"({columns[8]})", "settings": ""}
        assert amount.replace(",", "") == expected.get(kind, columns[7])


def test_a_refusal_names_the_check_and_the_code(fresh: Page, folder: Path) -> None:
    page = fresh
    page.click("#english")
    page.choose("#evidence", folder / "bad.json")
    page.choose("#policy-file", folder / "policy.txt")
    page.wait("document.querySelector('#policy').value")
    assert judge(page) == "refused"
    assert text(page, "#verdict-title") == "Refused"
    assert "bad_statement" in text(page, "#verdict-text")
    assert "REFUSED" in text(page, "#checks li.no")
    assert "item 2: statement" in text(page, "#checks li.no")
    assert "What is proven" not in text(page, "#report")
    page.click("#chinese")
    assert text(page, "#verdict-title") == "拒绝"
    assert "对账单不完整或不符" in text(page, "#verdict-text")


def test_all_files_of_a_folder_and_a_pasted_policy(fresh: Page, folder: Path) -> None:
    page = fresh
    page.choose("#evidence", *sorted((folder / "unpacked").iterdir()))
    page.type("#policy", everything().policy)
    assert judge(page) == "accepted"
    page.type("#policy", "nonsense")
    assert judge(page) == "refused"
    assert "bad_policy" in text(page, "#verdict-text")


def test_the_bundled_policy_is_named_in_the_verdict(fresh: Page, folder: Path) -> None:
    page = fresh
    page.click("#english")
    page.choose("#evidence", folder / "bundle.zip")
    assert judge(page) == "refused"
    assert "policy_not_trusted" in text(page, "#verdict-text")
    page.click("#trust-bundled-policy")
    assert judge(page) == "accepted"
    assert "WHO SIGNED" in text(page, "#verdict .warning")


def test_what_is_expected(fresh: Page, folder: Path) -> None:
    page = fresh
    page.choose("#evidence", folder / "bundle.zip")
    page.type("#policy", everything().policy)
    page.type("#accounts", "2, 1")
    page.type("#origin", " bank.example/log ")
    page.run("document.querySelector('#from').value = '2026-01-06'")
    page.click("#newest")
    assert judge(page) == "accepted"
    page.run("document.querySelector('#to').value = '2026-01-06'")
    assert judge(page) == "refused"
    assert "wrong_period" in text(page, "#verdict-text")


def test_dropped_files(fresh: Page) -> None:
    """The events of a drop, with files that a script made: what was dropped where is taken so."""
    page = fresh
    evidence = smallest()
    page.run(
        f"""(() => {{
            const drop = (selector, name, data) => {{
              const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], name));
              const target = document.querySelector(selector);
              for (const type of ["dragover", "drop"]) {{
                const event = new DragEvent(type,
                  {{ bubbles: true, cancelable: true, dataTransfer: transfer }});
                if (target.dispatchEvent(event)) throw new Error("the browser would open it");
              }}
            }};
            drop("#policy-drop", "mine.txt", {json.dumps(b64(evidence.policy.encode()))});
            drop("h1", "bundle.json", {json.dumps(b64(evidence.json))});
        }})()"""
    )
    page.wait("document.querySelector('#policy').value")
    page.wait("document.querySelector('#evidence-chosen').textContent")
    assert "mine.txt" in text(page, "#policy-chosen")
    assert judge(page) == "accepted"


def test_with_the_keyboard_alone(fresh: Page, tmp_path: Path) -> None:
    page = fresh
    (tmp_path / "bundle.json").write_bytes(smallest().json)
    page.choose("#evidence", tmp_path / "bundle.json")
    page.run("document.querySelector('#english').focus()")
    seen = []
    for _ in range(20):
        page.press("Tab")
        seen.append(page.run("document.activeElement.id"))
        if seen[-1] == "policy":
            page.command("Input.insertText", text=smallest().policy)
        if seen[-1] == "verify":
            break
    order = ["chinese", "evidence", "policy-file", "policy", "trust-bundled-policy", "accounts"]
    assert [one for one in seen if one in order] == order
    page.press("Enter")
    page.wait(f"{VERDICT}.classList.contains('accepted')")
    assert page.run("document.activeElement.id") == "verdict"


def test_every_field_has_a_name_and_nothing_is_read_twice(fresh: Page) -> None:
    nodes = fresh.command("Accessibility.getFullAXTree")["nodes"]
    named = {"textbox", "button", "checkbox", "Date", "region", "DateTime"}
    for node in nodes:
        if node.get("role", {}).get("value") in named and not node.get("ignored"):
            assert node.get("name", {}).get("value"), node
    headings = [
        node["name"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") == "heading" and not node.get("ignored")
    ]
    assert headings == ["Proof verifier"]  # the others are the names of their groups


def test_start_again(fresh: Page, folder: Path) -> None:
    page = fresh
    page.choose("#evidence", folder / "bundle.zip")
    page.type("#policy", everything().policy)
    judge(page)
    page.click("#clear")
    assert page.run("document.querySelector('#result').hidden")
    assert not page.run("document.querySelector('#policy').value")
    assert not text(page, "#evidence-chosen")
    page.click("#english")
    page.click("#verify")
    assert text(page, "#status") == "Choose the bundle first."


def test_a_file_that_is_gone_gives_one_line(fresh: Page, tmp_path: Path) -> None:
    page = fresh
    page.click("#english")
    (tmp_path / "bundle.json").write_bytes(smallest().json)
    page.choose("#evidence", tmp_path / "bundle.json")
    page.type("#policy", smallest().policy)
    (tmp_path / "bundle.json").unlink()
    assert judge(page) == "error"
    assert text(page, "#verdict-title") == "Not judged"
    assert "a file cannot be read" in text(page, "#verdict-text")
    assert page.events("Runtime.exceptionThrown") == []


def test_a_long_statement_is_shown_in_parts(fresh: Page, tmp_path: Path) -> None:
    page = fresh
    page.click("#english")
    evidence = statement_of(4200)  # 2,101 entries on each side
    (tmp_path / "bundle.json").write_bytes(evidence.json)
    page.choose("#evidence", tmp_path / "bundle.json")
    page.type("#policy", evidence.policy)
    assert judge(page) == "accepted"
    rows = "document.querySelector('#report table').tBodies[0].rows.length"
    assert page.run(rows) == 2000
    page.click("#report .scroll button")
    assert page.run(rows) == 4202
    assert "1 to" not in text(page, "#report .scroll")


# ----------------------------------------------------------------------------------------------
# Containment
# ----------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what was sent to it. A connection without a byte is the browser's
    own guess of what will follow, and is cut.
    """
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    seen.append(connection.recv(1000))
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], seen
        server.shutdown(socket.SHUT_RDWR)


def requested(page: Page) -> list[str]:
    """What the page asked for, besides itself and what the browser draws its own fields with."""
    addresses = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    return [
        one for one in addresses if one != PAGE.as_uri() and not one.startswith("data:image/svg")
    ]


def test_a_whole_examination_asks_for_nothing(fresh: Page, folder: Path) -> None:
    page = fresh
    page.choose("#evidence", folder / "bundle.zip")
    page.type("#policy", everything().policy)
    assert judge(page) == "accepted"
    assert requested(page) == []
    assert page.events("Runtime.exceptionThrown") == []
    assert page.events("Log.entryAdded") == []
    assert page.run("performance.getEntriesByType('resource').length") == 0


def test_the_policy_lets_no_request_out(fresh: Page, listener: tuple[int, list[bytes]]) -> None:
    port, seen = listener
    blocked = fresh.run(
        f"""(async () => {{
            const to = "//127.0.0.1:{port}/", blocked = [];
            addEventListener("securitypolicyviolation", (event) =>
              blocked.push(event.effectiveDirective));
            const attempts = [
              () => fetch(`http:${{to}}`),
              () => new Promise((resolve, reject) => {{
                const image = new Image();
                image.onerror = reject;
                image.onload = resolve;
                image.src = `http:${{to}}x.png`;
              }}),
              () => new Promise((resolve, reject) => {{
                const socket = new WebSocket(`ws:${{to}}`);
                socket.onerror = reject;
                socket.onopen = resolve;
              }}),
              () => new Promise((resolve, reject) => {{
                const source = new EventSource(`http:${{to}}`);
                source.onerror = reject;
                source.onopen = resolve;
              }}),
              () => {{ if (!navigator.sendBeacon(`http:${{to}}`, "x")) throw new Error(); }},
              () => {{
                const form = document.createElement("form");
                form.action = `http:${{to}}`;
                document.body.append(form);
                form.submit();
              }},
              () => {{
                const sheet = document.createElement("link");
                sheet.rel = "stylesheet";
                sheet.href = `http:${{to}}x.css`;
                document.head.append(sheet);
              }},
              () => {{
                const frame = document.createElement("iframe");
                frame.src = `http:${{to}}`;
                document.body.append(frame);
              }},
            ];
            let passed = 0;
            for (const attempt of attempts) {{
              try {{ await attempt(); passed++; }} catch {{ }}
            }}
            await new Promise((resolve) => setTimeout(resolve, 700));
            return blocked;
        }})()"""
    )
    assert [data for data in seen if data] == []
    expected = {"connect-src", "img-src", "form-action", "style-src-elem", "frame-src"}
    assert expected <= set(blocked)


def test_the_policy_lets_no_other_script_run(fresh: Page) -> None:
    result = fresh.run(
        """(async () => {
            const blocked = [];
            addEventListener("securitypolicyviolation", (event) =>
              blocked.push(event.effectiveDirective));
            globalThis.ran = [];
            const attempts = [
              () => {
                const script = document.createElement("script");
                script.append("globalThis.ran.push('inline')");
                document.body.append(script);
              },
              () => {
                const script = document.createElement("script");
                script.src = "data:text/javascript,globalThis.ran.push('data')";
                document.body.append(script);
              },
              () => {
                const button = document.createElement("button");
                button.setAttribute("onclick", "globalThis.ran.push('attribute')");
                document.body.append(button);
                button.click();
              },
              () => { document.body.innerHTML += "<img src=x onerror=globalThis.ran.push(1)>"; },
              () => { setTimeout("globalThis.ran.push('timer')", 0); },
              () => { location.href = "javascript:globalThis.ran.push('address')"; },
            ];
            for (const attempt of attempts) {
              try { attempt(); } catch { }
            }
            await new Promise((resolve) => setTimeout(resolve, 300));
            return [globalThis.ran, blocked.length];
        })()"""
    )
    assert result[0] == []
    assert result[1] >= 3


@pytest.mark.parametrize(
    ("old", "new", "works"),
    [
        ("</main>", "</main>", True),
        ('"use strict";', '"use strict"; ', False),
        ("</main>", "</main><script>globalThis.intruder = 1</script>", True),
        ("<main>", '<main><img src="x" onerror="globalThis.intruder = 1">', True),
        ("<main>", "<main><style>.verdict { display: none }</style>", True),
    ],
)
def test_a_page_that_was_changed_does_not_run_the_change(
    browser: Browser, tmp_path: Path, old: str, new: str, works: bool
) -> None:
    source = PAGE.read_text(encoding="utf-8")
    assert source.count(old) == 1
    (tmp_path / "verify.html").write_text(source.replace(old, new), encoding="utf-8")
    page = browser.open((tmp_path / "verify.html").as_uri())
    assert page.run("typeof sanyuan === 'object'") is works
    assert page.run("typeof intruder") == "undefined"
    assert page.run(f"getComputedStyle({VERDICT}).display") == "block"
    page.close()


def test_names_are_text_and_never_markup(fresh: Page, tmp_path: Path) -> None:
    page = fresh
    evidence = smallest()
    hostile = "<img src=x onerror=intruder=1><script>intruder=1</script>"
    value = {**evidence.bundle.value(), "origin": hostile}
    path = tmp_path / "<b>bundle<b>.json"
    path.write_bytes(resealed(value))
    page.choose("#evidence", path)
    page.type("#policy", evidence.policy)
    assert judge(page) == "refused"
    assert hostile in text(page, "#verdict-text")
    assert "<b>" in text(page, "#evidence-chosen")
    assert page.run("document.images.length") == 0
    assert page.run("typeof intruder") == "undefined"


def test_a_court_can_print_it(fresh: Page, folder: Path) -> None:
    page = fresh
    page.click("#english")
    page.choose("#evidence", folder / "bundle.zip")
    page.type("#policy", everything().policy)
    judge(page)
    page.emulate(media="print", scheme="dark")
    shown = page.run(
        "['#question', '.languages', '.again', '#verdict', '#report', '#checks'].map((one) =>"
        " getComputedStyle(document.querySelector(one)).display !== 'none')"
    )
    assert shown == [False, False, False, True, True, True]
    colours = page.run(
        "[document.documentElement, document.querySelector('#verdict')].map((one) =>"
        " [getComputedStyle(one).backgroundColor, getComputedStyle(one).color])"
    )
    assert colours == [["rgb(255, 255, 255)", "rgb(0, 0, 0)"]] * 2
    overflow = page.run(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0
    page.emulate()


# ----------------------------------------------------------------------------------------------
# The source
# ----------------------------------------------------------------------------------------------


def test_the_hashes_in_the_policy_are_those_of_script_and_style(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "seal_page.py", "--check"], check=False)
    assert done.returncode == 0
    copy = tmp_path / "tools" / "seal_page.py"
    page = tmp_path / "ledger" / "proof" / "verify.html"
    for path in (copy, page):
        path.parent.mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "seal_page.py", copy)
    page.write_text(PAGE.read_text(encoding="utf-8").replace("--paper: #", "--paper:  #", 1))
    stale = subprocess.run([sys.executable, copy, "--check"], check=False, capture_output=True)
    assert stale.returncode == 1
    assert subprocess.run([sys.executable, copy], check=False).returncode == 0
    assert subprocess.run([sys.executable, copy, "--check"], check=False).returncode == 0


def test_the_page_is_one_file_with_a_strict_policy() -> None:
    source = PAGE.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', source)
    assert policy is not None
    directives = dict(one.split(" ", 1) for one in policy[1].split("; "))
    assert directives["default-src"] == "'none'"
    assert all(
        re.fullmatch(r"'(none|script|sha256-[A-Za-z0-9+/]{43}=)'", value)
        for value in directives.values()
    )
    assert not re.search(r"<(?:link|img|iframe|object|embed|base|form[^>]+action)\b", source)
    assert not re.search(r"\b(?:src|href|style|on[a-z]+)=", source.split("<script>")[0])
    script = source.split("<script>")[1].split("</script>")[0]
    for word in ("innerHTML", "eval(", "Function(", "fetch(", "XMLHttpRequest", "crypto.subtle"):
        assert word not in script, word
    long = [line for line in source.splitlines() if len(line) > 100]
    assert [line for line in long if "Content-Security-Policy" not in line] == []


def test_every_sentence_has_its_chinese() -> None:
    source = PAGE.read_text(encoding="utf-8")
    body, script = source.split("<body>")[1].split("<script>")
    table = script[script.index("const CHINESE") : script.index("let language")]
    pieces = re.findall(r'\[((?:"[^"]*"(?: \+\n *)?)+)\]:|"([^"]+)":|^ {2}(\w+):', table, re.M)
    known = {"".join(re.findall(r'"([^"]*)"', one)) or two or three for one, two, three in pieces}
    said = set()
    for element in re.findall(r"data-say>(.*?)</", body, re.DOTALL):
        said.add(" ".join(element.split()))
    said |= set(re.findall(r'\bsay\(\s*"([^"]+)"', script))
    said |= {two for one in re.findall(r"say\([^\"()]*\? \"([^\"]+)\" : \"([^\"]+)\"", script)
             for two in one}  # fmt: skip
    said |= set(re.findall(r'\["([A-Z][^"]+)", (?:MONEY|LONG|PLAIN)\]', script))
    said |= set(re.findall(r'\badd\("([^"]+)"', script))
    said |= {"opening", "settings", "expired", "pending", "posted", "voided", "transfer"}
    assert len(said) > 60
    assert said - known == set()
    rest = script.replace(table, "")
    assert [one for one in known - said if f'"{one}"' not in rest] == [], "not used"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_stands_out_in_light_and_dark() -> None:
    style = PAGE.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    schemes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
               for part in style.split("@media")[:2]]  # fmt: skip
    for colours in schemes:
        for ground in ("paper", "sheet"):
            for ink in ("ink", "quiet", "link", "good", "bad", "doubt"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            assert contrast(colours["edge"], colours[ground]) >= 3, ground
        for kind in ("good", "bad", "doubt"):
            assert contrast(colours[kind], colours[f"{kind}-wash"]) >= 4.5, kind
            assert contrast(colours["ink"], colours[f"{kind}-wash"]) >= 4.5, kind


def test_evidence_is_what_it_says(folder: Path) -> None:
    """The folder of these tests has every file of an export."""
    evidence: Evidence = everything()
    assert {path.name for path in (folder / "unpacked").iterdir()} == set(evidence.files)
    assert {"state.bin", "trial-balance.csv", "statement-1.csv"} <= set(evidence.files)
