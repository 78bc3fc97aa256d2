"""`python -m fastdcgan`: the same as `fastdcgan`."""

from fastdcgan.cli import main

if __name__ == "__main__":
    main()
