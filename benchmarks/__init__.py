"""One question of speed a file, each runnable by itself; `python -m benchmarks` asks all of them."""
