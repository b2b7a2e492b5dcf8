"""Tables that Python's csv module writes, in each of its quoting styles, come back from `triplay data import` as they were.

    python tests/peers/python_csv_comes_back.py target/release/triplay [TABLES] [SEED]

Python alone will do. What csv cannot write in a style is left out, as is a table whose text begins with a byte order mark.
Exits with an error at the first table that comes back otherwise, and leaves it in the folder that it names.

Not part of the test command: it needs Python.
"""

import csv
import io
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TRIPLAY = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else sys.exit(__doc__)
TABLES = int(sys.argv[2]) if len(sys.argv) > 2 else 200
RANDOM = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
STYLES = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]
COLUMNS = ["seed_id", "category", "text", "answer"]
PIECES = ["brew", "glowvenom", '"', '""', ",", "\t", "\r", "\n", "\r\n", " ", "1.5", "007", "é", "\x04", "\ufeff", "'", "\\", "# "]


def text():
    """One that import neither leaves out as empty nor trims."""
    middle = "".join(RANDOM.choices(PIECES, k=RANDOM.randrange(6)))
    return RANDOM.choice(["a", '"', ",", "é"]) + middle + RANDOM.choice(["z", '"', ",", "\u4e2d"])


def table():
    rows = [[f"row-{number}", text(), text(), RANDOM.choice(["", text()])] for number in range(RANDOM.randrange(1, 8))]
    return [[field if "\0" not in field else "" for field in row] for row in rows]


def plain(field):
    """What csv can write without quotes."""
    return "".join(c for c in field if c not in '",\t\r\n\ufeff').strip() or "brew"


def write(path, rows, quoting, delimiter, end):
    """Whether csv can write these rows so, and read them again: before 3.13 it wrote carriage returns without quotes."""
    out = io.StringIO(newline="")
    try:
        csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([COLUMNS, *rows])
        out.seek(0)
        if list(csv.reader(out, delimiter=delimiter, quoting=csv.QUOTE_NONE if quoting == csv.QUOTE_NONE else csv.QUOTE_MINIMAL)) != [COLUMNS, *rows]:
            return False
    except csv.Error:
        return False
    path.write_bytes(out.getvalue().encode())
    return True


def triplay(folder, *args):
    done = subprocess.run([TRIPLAY, *args], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{folder}: {args}: {done.stderr}"
    return done.stdout


def imported(folder, name):
    triplay(folder, "data", "import", name, "--task", "benign", "--keep-duplicates", "--out", "seeds.parquet")
    shown = triplay(folder, "data", "show", "seeds.parquet", "--json", "--rows", "100")
    rows = [json.loads(line) for line in shown.splitlines()]
    return [[row[column] or "" for column in COLUMNS] for row in rows]


def main():
    folder = Path(tempfile.mkdtemp())
    counts = dict.fromkeys(STYLES, 0)
    for number in range(TABLES):
        all_rows = table()
        for quoting in STYLES:
            rows = all_rows
            if quoting == csv.QUOTE_NONE:
                rows = [[plain(field) for field in row] for row in rows]
            delimiter, ending = RANDOM.choice([(",", "csv"), ("\t", "tsv")])
            name = f"table.{ending}"
            if not write(folder / name, rows, quoting, delimiter, RANDOM.choice(["\n", "\r\n"])):
                continue
            found = imported(folder, name)
            assert found == rows, f"table {number} in {folder / name}:\n{rows!r}\nbut\n{found!r}"
            counts[quoting] += 1
            # What was written as CSV by triplay is read by Python as it was.
            triplay(folder, "data", "export", "seeds.parquet", "--out", "again.csv")
            with open(folder / "again.csv", newline="", encoding="utf-8") as file:
                again = [[row[column] for column in COLUMNS] for row in csv.DictReader(file)]
            assert again == rows, f"table {number}, written again:\n{rows!r}\nbut\n{again!r}"
    names = ["minimal", "all", "nonnumeric", "none"]
    print("tables that came back, by style:", ", ".join(f"{name} {count}" for name, count in zip(names, counts.values())))


main()
