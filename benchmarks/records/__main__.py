"""`python -m benchmarks.records` writes the table of README.md anew, from the logs."""

from benchmarks.records.ranking import PAGE, ranking, with_ranking

if __name__ == "__main__":
    table = ranking()
    PAGE.write_text(with_ranking(PAGE.read_text(), table))
    print(table, end="")
