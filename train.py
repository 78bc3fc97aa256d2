"""`accelerate launch train.py`: the verb `train` of `fastdcgan`, for launchers that want a file."""

from fastdcgan.cli import train_main

if __name__ == "__main__":
    train_main()
