"""Check a run's report.html in headless Chromium.

    python3 scripts/check_report.py target/release/clipsift run
    python3 scripts/check_report.py target/release/clipsift run --screenshot tests/data/report.png

Moves every slider of the page, alone and together, to several places, runs the commands that the page then shows on a copy of
the run, and compares the counts of both. Checks that the console stays empty, that nothing but the file itself is loaded, that
blurred pictures clear on a click, and that the page is no wider than its window. Needs chromedriver and Chromium on the PATH,
and nothing else; a run of at most some thousand samples, since it is copied for each setting.

With --screenshot the first 2187 pixels of the page are kept instead, 1200 wide: the picture of the README is that of
`clipsift curate tests/data/gallery --out run`, run in the folder that `run` is to be in.
"""

import argparse
import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PORT = 9517
ROUNDS = 6

COUNTS = """return Object.fromEntries([...document.querySelectorAll('[data-count]')]
    .map(cell => [cell.dataset.count, Number(cell.dataset.value)]))"""
MOVE = """const slider = document.getElementById(arguments[0]);
    slider.value = arguments[1];
    slider.dispatchEvent(new Event('input'));"""
COMMAND = "return document.getElementById('command').textContent"
BLUR = "return getComputedStyle(document.querySelector('.veil img')).filter"


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", method=method, data=data)
    return json.load(urllib.request.urlopen(request))["value"]


def open_session(height):
    window = f"--window-size=1200,{height}"
    options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", window]}
    logs = {"browser": "ALL", "performance": "ALL"}
    wanted = {"browserName": "chrome", "goog:loggingPrefs": logs, "goog:chromeOptions": options}
    for _ in range(100):
        try:
            return "/session/" + call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    sys.exit("chromedriver does not answer")


def apply(binary, run, shown, commands):
    """What the last of the commands prints when they are run on a copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "run"
        shutil.copytree(run, copy)
        for line in commands.splitlines():
            words = line.split()
            assert words[0] == "clipsift" and words[2] == shown, line
            done = subprocess.run([binary, words[1], str(copy), *words[3:]], capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stderr)
        return done.stdout


def compare(counts, table, commands):
    for key, count in counts.items():
        label = "not passing " + key[6:] if key.startswith("score:") else key
        rows = [line for line in table.splitlines() if line.startswith(label + " ")]
        got = int(rows[0].split()[-1]) if rows else 0
        assert got == count, f"{commands}: {key} is {count} in the page, {got} by the command"


def photograph(session, path):
    """The window as it is; in 256 colours, a third of the size, where Pillow is there to find them."""
    path.write_bytes(base64.b64decode(call("GET", session + "/screenshot")))
    try:
        from PIL import Image
    except ImportError:
        pass
    else:
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--screenshot", type=pathlib.Path)
    args = parser.parse_args()
    binary, run = args.binary.resolve(), args.run.resolve()
    driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
    session = None
    try:
        session = open_session(2330 if args.screenshot else 900)
        page = (run / "report.html").as_uri()
        call("POST", session + "/url", {"url": page})
        if args.screenshot:
            return photograph(session, args.screenshot)

        def script(code, *args):
            return call("POST", session + "/execute/sync", {"script": code, "args": list(args)})

        sliders = script(
            "return [...document.querySelectorAll('input[type=range]')].map(e => [e.id, Number(e.min), Number(e.max)])"
        )
        shown = script("return JSON.parse(document.getElementById('this-run').textContent).run")
        checked = 0
        for turn in range(ROUNDS):
            for moved in [[i] for i in range(len(sliders))] + [range(len(sliders))]:
                script("document.getElementById('reset').click()")
                for i in moved:
                    name, low, high = sliders[i]
                    script(MOVE, name, low + (high - low) * ((turn * 37 + i * 23) % 101) / 100)
                commands = script(COMMAND)
                if commands.startswith("clipsift "):
                    compare(script(COUNTS), apply(binary, run, shown, commands), commands)
                    checked += 1
        print(f"{len(sliders)} sliders, {checked} settings: the page counts as the commands do")
        if script("return document.querySelector('.veil') !== null"):
            assert script(BLUR) != "none"
            script("document.querySelector('.veil').click()")
            assert script(BLUR) == "none"
            print("blurred pictures clear on a click")
        width, window = script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width <= window, f"the page is {width} wide in a window of {window}"
        console = call("POST", session + "/se/log", {"type": "browser"})
        assert not console, console
        log = call("POST", session + "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in log]
        urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        assert {url for url in urls if not url.startswith("data:")} <= {page}, urls
        print("no message on the console, nothing loaded but the file")
    finally:
        if session:
            call("DELETE", session)
        driver.terminate()


if __name__ == "__main__":
    main()
